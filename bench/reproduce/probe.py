"""What fastlibra's bookkeeping costs on this machine, taken from a cache at work (the paper's overheads)."""

from collections.abc import Callable
from statistics import fmean
from time import perf_counter

import numpy as np

from bench.platform import Platform
from bench.setup import SeedSetup
from libra.cache.manager import CacheManager
from libra.cache.memory import CacheMemory
from libra.cache.policy import CachePolicy, SwapperConfig
from libra.cache.swapper import Swapper
from libra.cache.tree import ROOT
from libra.engine.replay import replay

REPEATS = 30
SAMPLE_S = 0.5
# Within how much of Low_lora the paper counts adapters in HBM as on target.
TOLERANCE = 0.05
OVERHEADS = (
    "tree_nodes",
    "tree_bytes",
    "node_bytes",
    "match_ms",
    "matched_blocks",
    "score_us_per_node",
    "tick_ms",
    "on_target_share",
    "at_least_target_share",
)


def probe(platform: Platform, policy: CachePolicy, setup: SeedSetup) -> dict[str, float | None]:
    """Runs the trace and times the swapper's ticks, then times the cache as it stands at the end, best of several."""
    engine = platform.engine(policy, setup.adapters, setup.sizes)
    manager = engine.manager
    counts = _Counts(manager)
    swapper = None
    if policy.swapper is not None:
        manager.swapper = swapper = _TimedSwapper(manager.memory, policy.swapper)
    try:
        replay(engine, setup.trace.requests, setup.seed, counts.watch)
        tick_ms = 1e3 * fmean(swapper.times_s) if swapper is not None and swapper.times_s else None
        return {**_costs(manager), **counts.shares(), "tick_ms": tick_ms}
    finally:
        manager.memory.link.close()


class _TimedSwapper(Swapper):
    """Notes how long each of its ticks takes."""

    def __init__(self, memory: CacheMemory, config: SwapperConfig) -> None:
        super().__init__(memory, config)
        self.times_s: list[float] = []

    def tick(self) -> None:
        start_s = perf_counter()
        super().tick()
        self.times_s.append(perf_counter() - start_s)


class _Counts:
    """Adapters in HBM against Low_lora, sampled through a run."""

    def __init__(self, manager: CacheManager) -> None:
        self._manager = manager
        self._next_s = 0.0
        self._samples: list[tuple[int, float]] = []

    def watch(self, now_s: float, num_done: int) -> None:
        if now_s >= self._next_s:
            self._next_s = now_s + SAMPLE_S
            memory = self._manager.memory
            self._samples.append((memory.tree.adapters_in_hbm, memory.demand.low_lora(now_s)))

    def shares(self) -> dict[str, float | None]:
        asked = [(count, low) for count, low in self._samples if low > 0]
        if not asked:
            return {"on_target_share": None, "at_least_target_share": None}
        near = [abs(count - low) <= TOLERANCE * low for count, low in asked]
        enough = [count >= (1 - TOLERANCE) * low for count, low in asked]
        return {"on_target_share": sum(near) / len(near), "at_least_target_share": sum(enough) / len(enough)}


def _costs(manager: CacheManager) -> dict[str, float | None]:
    memory, tree = manager.memory, manager.memory.tree
    leaves = np.flatnonzero(memory.tree.unpinned_in_hbm())
    columns = [column for column in vars(tree).values() if isinstance(column, np.ndarray)]
    node_bytes = sum(column.itemsize for column in columns)
    labels, adapter = _longest_path(manager)
    score = memory.scores("out")
    return {
        "tree_nodes": float(len(tree)),
        "tree_bytes": float(node_bytes * len(tree)),
        "node_bytes": float(node_bytes),
        "match_ms": 1e3 * _best_s(lambda: tree.match(adapter, labels)),
        "matched_blocks": float(len(labels)),
        "score_us_per_node": 1e6 * _best_s(lambda: score(leaves)) / max(len(leaves), 1),
    }


def _longest_path(manager: CacheManager) -> tuple[list[int], int]:
    """The labels of the deepest KV node's path from its adapter, and that adapter's node."""
    tree = manager.memory.tree
    node = int(np.argmax(np.where(tree.in_use, tree.depth, -1)))
    adapter, labels = int(tree.adapter[node]), []
    while node not in (adapter, ROOT):
        labels.append(tree.labels[node])
        node = int(tree.parent[node])
    return labels[::-1], adapter


def _best_s(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start_s = perf_counter()
        call()
        times.append(perf_counter() - start_s)
    return min(times)
