"""The engine's state at a moment, taken by its own thread so that others can read it at leisure."""

from collections.abc import Iterable
from dataclasses import dataclass

from libra.engine.engine import Engine
from libra.engine.sequence import Sequence

TIERS = ("hbm", "loading", "host", "disk")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``state``: the columns of the timeline (``time_s``, blocks by use, waiting, running). ``counters``: totals since
    the start. ``adapter_tiers``: adapter id -> hbm | loading | host | disk."""

    state: dict[str, float]
    counters: dict[str, float]
    adapter_tiers: dict[str, str]
    running_adapters: tuple[str, ...]
    waiting_adapters: tuple[str, ...]
    hbm_blocks: int
    host_blocks: int
    block_bytes: int


def take_snapshot(engine: Engine) -> Snapshot:
    """Called in the engine's thread, between steps."""
    manager, scheduler = engine.manager, engine.scheduler
    memory, counters = manager.memory, manager.memory.counters
    waiting = (*scheduler.waiting, *scheduler.loading)
    return Snapshot(
        state=engine.timeline.measure(engine.clock.now(), len(waiting), len(scheduler.running)),
        counters={
            "swap_in_bytes": counters.swap_in_bytes,
            "swap_out_bytes": counters.swap_out_bytes,
            "prefetch_in_bytes": counters.prefetch_in_bytes,
            "prefetch_used_bytes": counters.prefetch_used_bytes,
            "evicted_blocks": counters.evicted_blocks,
            "dropped_kv_blocks": counters.dropped_kv_blocks,
            "adapter_loads_host": memory.num_adapter_loads["host"],
            "adapter_loads_disk": memory.num_adapter_loads["disk"],
            "preemptions": scheduler.num_preemptions,
            "stall_s": scheduler.stall_s,
            "num_steps": engine.num_steps,
        },
        adapter_tiers={
            adapter_id: manager.adapter_tier(adapter_id)
            for adapter_id in memory.tree.adapter_nodes
            if adapter_id is not None
        },
        running_adapters=_adapters(scheduler.running),
        waiting_adapters=_adapters(waiting),
        hbm_blocks=memory.hbm.num_blocks,
        host_blocks=memory.host.num_blocks,
        block_bytes=memory.block_bytes,
    )


def _adapters(sequences: Iterable[Sequence]) -> tuple[str, ...]:
    return tuple(sorted({sequence.adapter_id for sequence in sequences if sequence.adapter_id is not None}))
