"""Drives an engine through a trace."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

from libra.engine.engine import Engine
from libra.engine.record import RunResult
from libra.request import Request

# How long a real engine with nothing to compute sleeps between looks at the link.
POLL_S = 0.0005
Progress = Callable[[float, int], None]


def replay(
    engine: Engine, requests: Iterable[Request], seed: int = 0, on_progress: Progress | None = None
) -> RunResult:
    """Submits each request at its arrival time and runs until all are done.

    ``on_progress`` is told (time, requests done) after every step. On KeyboardInterrupt the result holds
    what there is and is marked incomplete.
    """
    complete = True
    try:
        _run(engine, iter(requests), on_progress)
    except KeyboardInterrupt:
        complete = False
    return _result(engine, seed, complete)


def _run(engine: Engine, source: Iterator[Request], on_progress: Progress | None) -> None:
    upcoming = next(source, None)
    while upcoming is not None or engine.scheduler.has_work:
        while upcoming is not None and upcoming.arrival_s <= engine.clock.now():
            engine.submit(upcoming)
            upcoming = next(source, None)
        next_arrival_s = float("inf") if upcoming is None else upcoming.arrival_s
        if not engine.step(next_arrival_s):
            _wait(engine, next_arrival_s)
        if on_progress is not None:
            on_progress(engine.clock.now(), len(engine.records))


def _wait(engine: Engine, next_arrival_s: float) -> None:
    """Sleeps until something can change. Only a real link leaves its next completion unknown."""
    link = engine.manager.memory.link
    until_s = min(next_arrival_s, engine.next_event_s())
    if link.pending() and link.next_completion_s() is None:
        until_s = min(until_s, engine.clock.now() + POLL_S)
    engine.clock.advance_to(until_s)


def _result(engine: Engine, seed: int, complete: bool) -> RunResult:
    scheduler, memory = engine.scheduler, engine.manager.memory
    unfinished = [s.record for s in (*scheduler.waiting, *scheduler.loading, *scheduler.running)]
    counters: dict[str, float] = asdict(memory.counters)
    counters |= {
        "preemptions": scheduler.num_preemptions,
        "stall_s": scheduler.stall_s,
        "num_steps": engine.num_steps,
    }
    return RunResult(
        policy=memory.policy.name,
        seed=seed,
        records=sorted([*engine.records, *unfinished], key=lambda record: record.id),
        timeline=engine.timeline.columns,
        counters=counters,
        duration_s=engine.clock.now(),
        device=engine.executor.describe(),
        caption=engine.executor.describe(),
        complete=complete,
        extra={"adapter_internal_fragmentation": _fragmentation(engine)},
    )


def _fragmentation(engine: Engine) -> float | None:
    """Share of the adapters' HBM blocks that holds no weights: unit packing, the last block, padded slots."""
    tree = engine.manager.memory.tree
    adapters = tree.is_adapter & (tree.size > 0)
    taken = int(tree.size[adapters].sum()) * engine.manager.memory.block_bytes
    return 1.0 - int(tree.num_bytes[adapters].sum()) / taken if taken else None
