"""Samples of what HBM is used for."""

import numpy as np

from libra.cache.manager import CacheManager
from libra.cache.memory import KV
from libra.cache.tree import LOADING, PRESENT

COLUMNS = (
    "time_s",
    "adapter_blocks",
    "history_blocks",
    "running_blocks",
    "in_flight_blocks",
    "free_blocks",
    "host_blocks",
    "invalid_blocks",
    "adapters_in_hbm",
    "waiting",
    "running",
)


class Timeline:
    """Columns of equal length, one entry per sample. Counts are blocks unless the name says otherwise."""

    def __init__(self, manager: CacheManager) -> None:
        self._manager = manager
        self.columns: dict[str, list[float]] = {name: [] for name in COLUMNS}

    def sample(self, now_s: float, waiting: int, running: int) -> None:
        """Appends the state at ``now_s``."""
        for name, value in self.measure(now_s, waiting, running).items():
            self.columns[name].append(value)

    def measure(self, now_s: float, waiting: int, running: int) -> dict[str, float]:
        """The state at ``now_s``. ``invalid_blocks`` are history KV in HBM without their adapter or prefix."""
        memory = self._manager.memory
        tree = memory.tree
        adapters = np.fromiter(tree.adapter_ids, np.intp, len(tree.adapter_ids))
        states = tree.hbm[adapters]
        in_adapters = int(tree.size[adapters[(states == PRESENT) | (states == LOADING)]].sum())
        history = tree.evictable_blocks[KV]
        loading = sum(not tree.is_adapter[node] for node in memory.loading)
        in_flight = sum(tree.leaving_blocks) + loading
        free = memory.hbm.num_free
        values = (
            now_s,
            in_adapters,
            history,
            memory.hbm.num_blocks - free - in_adapters - history - in_flight,
            in_flight,
            free,
            memory.host.num_blocks - memory.host.num_free,
            self._invalid_blocks(),
            tree.adapters_in_hbm,
            waiting,
            running,
        )
        return {name: float(value) for name, value in zip(COLUMNS, values, strict=True)}

    def _invalid_blocks(self) -> int:
        """History KV that is of no use where it is. The dependency rule leaves none (invariant 1)."""
        tree = self._manager.memory.tree
        if self._manager.policy.dependency:
            return 0
        return int(np.count_nonzero(tree.unpinned_in_hbm() & ~tree.is_adapter & ~tree.usable_in_hbm()))
