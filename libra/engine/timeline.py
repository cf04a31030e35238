"""Samples of what HBM is used for."""

import numpy as np

from libra.cache.manager import CacheManager
from libra.cache.policy import Indices
from libra.cache.tree import LEAVING, LOADING, PRESENT, Mask

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
        nodes = np.flatnonzero(tree.hbm)  # all but the absent: most nodes are on the host
        state, size = tree.hbm[nodes], tree.size[nodes]
        is_adapter, pinned = tree.is_adapter[nodes], tree.pins[nodes] > 0
        present, loading = state == PRESENT, state == LOADING
        history = present & ~is_adapter & ~pinned
        private = sum(holding.num_private for holding in self._manager.holdings.values())
        values = (
            now_s,
            size[(present | loading) & is_adapter].sum(),
            size[history].sum(),
            size[present & ~is_adapter & pinned].sum() + private,
            size[(state == LEAVING) | (loading & ~is_adapter)].sum(),
            memory.hbm.num_free,
            memory.host.num_blocks - memory.host.num_free,
            size[history & ~self._usable(nodes)].sum(),
            tree.adapters_in_hbm,
            waiting,
            running,
        )
        return {name: float(np.asarray(value)) for name, value in zip(COLUMNS, values, strict=True)}

    def _usable(self, nodes: Indices) -> Mask:
        """Which of ``nodes``, that are in HBM, can be used where they are. Under the dependency rule a parent in HBM is
        enough, since the same is asked of the parent; otherwise the whole path is looked at."""
        tree = self._manager.memory.tree
        if not self._manager.policy.dependency:
            return tree.usable_in_hbm()[nodes]
        parents = tree.hbm[tree.parent[nodes]]  # the root is always present
        usable: Mask = (parents == PRESENT) | (parents == LOADING)
        return usable
