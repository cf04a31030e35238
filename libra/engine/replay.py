"""Drives an engine through a trace."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

from libra.cache.foresight import Foresight
from libra.engine.engine import Engine
from libra.engine.record import RequestRecord, RunResult
from libra.engine.upcoming import Upcoming
from libra.request import Request

# An engine that leaves requests waiting for longer than this and its policy's patience, with nothing on the way that
# could let one in, has lost them.
STUCK_S = 10.0
Progress = Callable[[float, int], None]


def replay(
    engine: Engine,
    requests: Sequence[Request],
    seed: int = 0,
    on_progress: Progress | None = None,
    future: Foresight | None = None,
) -> RunResult:
    """Submits each request at its arrival time, or when those it waits for have finished, and runs until all are done.

    A policy that needs the future is told it first: ``future``, which is ``requests`` as this engine's cache sees them.
    ``on_progress`` is told (time, requests done) after every step. On KeyboardInterrupt the result holds
    what there is and is marked incomplete. Raises RuntimeError when requests wait and nothing ever happens.
    """
    if engine.manager.memory.ranker.needs_future:
        foretell(engine, requests, future)
    upcoming = engine.upcoming = Upcoming(requests)
    complete = True
    try:
        _run(engine, upcoming, on_progress)
    except KeyboardInterrupt:
        complete = False
    return _result(engine, seed, complete, upcoming.cancelled)


def foretell(engine: Engine, requests: Sequence[Request], future: Foresight | None = None) -> None:
    """Tells the policy's ranker what is to come, less the requests that its cache will reject for their size."""
    manager = engine.manager
    if future is None:
        future = Foresight.of(requests, engine.config.block_tokens, engine.vocab_size)
    lengths = ((request, request.num_prompt_tokens + request.output_tokens) for request in requests)
    rejected = {request.id for request, length in lengths if manager.reason_never_fits(request.adapter, length)}
    manager.memory.ranker.foresee(future.without(rejected))


def _run(engine: Engine, upcoming: Upcoming, on_progress: Progress | None) -> None:
    idle_since_s = math.inf
    while upcoming or engine.scheduler.has_work:
        engine.submit_arrived()
        if engine.step(upcoming.next_arrival_s):
            idle_since_s = math.inf
        else:
            idle_since_s = _idle_since(engine, idle_since_s)
            _wait(engine, upcoming.next_arrival_s)
        upcoming.note(engine.records)
        if on_progress is not None:
            on_progress(engine.clock.now(), len(engine.records) + len(upcoming.cancelled))


def _idle_since(engine: Engine, since_s: float) -> float:
    """Since when, in seconds, requests wait while nothing is computed or transferred; infinite when it is not so.

    ``since_s`` is what the last call returned. Raises RuntimeError when it has been too long.
    """
    waiting, now_s = engine.scheduler.waiting, engine.clock.now()
    if not engine.scheduler.has_work or engine.manager.memory.link.pending():
        return math.inf
    if now_s - since_s > STUCK_S + engine.manager.policy.max_pass_s:
        names = ", ".join(str(sequence.request.id) for sequence in list(waiting)[:5])
        raise RuntimeError(
            f"the engine has stood still since {since_s:.3f} s with {len(waiting)} requests waiting (first: {names})"
        )
    return min(since_s, now_s)


def _wait(engine: Engine, next_arrival_s: float) -> None:
    """Rests until something can change. A real link, whose next completion nobody knows, rings."""
    engine.clock.rest_until(min(next_arrival_s, engine.next_event_s()))


def _result(engine: Engine, seed: int, complete: bool, cancelled: list[RequestRecord]) -> RunResult:
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
        records=sorted([*engine.records, *cancelled, *unfinished], key=lambda record: record.id),
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
