"""What a sequence holds of the cache, claims of it, or needs from it."""

from dataclasses import dataclass, field
from enum import Enum

from libra.engine.link import Transfer


class Admission(Enum):
    """The answer to ``admit``."""

    ADMITTED = "admitted"
    SAVING = "waits for evicted blocks to be saved"
    NO_ROOM = "does not fit now"


@dataclass(slots=True)
class Holding:
    """What an admitted sequence holds: pinned nodes, private blocks, and the loads it waits for."""

    adapter_node: int
    path: list[int]
    num_private: int
    adapter_load: Transfer | None
    kv_loads: list[Transfer]
    shares: bool
    hbm_hit_blocks: int = 0
    host_hit_blocks: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether every load has ended and been collected."""
        loads = self.kv_loads if self.adapter_load is None else [self.adapter_load, *self.kv_loads]
        return all(load.collected for load in loads)

    def load_times(self, admitted_s: float) -> tuple[float, float]:
        """When the adapter and when everything was in HBM, not before ``admitted_s``."""
        adapter = [] if self.adapter_load is None else [self.adapter_load.finished_s or 0.0]
        adapter_done = max([admitted_s, *adapter])
        return adapter_done, max([adapter_done, *(load.finished_s or 0.0 for load in self.kv_loads)])


@dataclass(slots=True)
class Claim:
    """Blocks promised to a request that waits for saves, and the part of its path that HBM holds, kept from others."""

    blocks: list[int] = field(default_factory=lambda: [0, 0])
    pinned: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """What admitting a sequence takes: pure arithmetic over one match."""

    adapter_node: int
    path: list[int]
    loads: list[int]
    needed: list[int]
    new_blocks: int
