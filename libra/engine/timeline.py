"""Samples of what HBM is used for."""

import numpy as np
import numpy.typing as npt

from libra.cache.manager import CacheManager
from libra.cache.tree import LEAVING, LOADING, PRESENT, ROOT

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
        tree, size = memory.tree, memory.tree.size
        present = tree.hbm == PRESENT
        kv = ~tree.is_adapter
        pinned = tree.pins > 0
        history = present & kv & ~pinned
        private = sum(holding.num_private for holding in self._manager.holdings.values())
        values = (
            now_s,
            size[(present | (tree.hbm == LOADING)) & tree.is_adapter].sum(),
            size[history].sum(),
            size[present & kv & pinned].sum() + private,
            size[(tree.hbm == LEAVING) | ((tree.hbm == LOADING) & kv)].sum(),
            memory.hbm.num_free,
            memory.host.num_blocks - memory.host.num_free,
            size[history & ~self._usable(present)].sum(),
            tree.adapters_in_hbm,
            waiting,
            running,
        )
        return {name: float(np.asarray(value)) for name, value in zip(COLUMNS, values, strict=True)}

    def _usable(self, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Mask of nodes that can be used where they are. Under the dependency rule a parent in HBM is enough, since the
        same is asked of the parent; otherwise the whole path is looked at."""
        tree = self._manager.memory.tree
        if not self._manager.policy.dependency:
            return tree.usable_in_hbm()
        in_hbm = present | (tree.hbm == LOADING)
        usable: npt.NDArray[np.bool_] = in_hbm & (in_hbm[tree.parent] | (tree.parent == ROOT))
        return usable
