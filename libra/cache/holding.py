"""What a sequence holds of the cache, claims of it, or needs from it."""

import math
from dataclasses import dataclass, field
from enum import Enum

from libra.engine.link import Arrival, Transfer
from libra.errors import LibraError


class AdapterInUse(LibraError):
    """Something of an adapter is in use or in motion: it can be removed later."""


class Admission(Enum):
    """The answer to ``admit``."""

    ADMITTED = "admitted"
    SAVING = "waits for evicted blocks to be saved"
    NO_ROOM = "does not fit now"


@dataclass(slots=True)
class Holding:
    """What an admitted sequence holds: pinned nodes, private blocks, and the loads it waits for.

    ``starts_s``: when it may start although its adapter is still coming, and ``arrival`` when that will be there.
    """

    adapter_node: int
    path: list[int]
    num_private: int
    adapter_load: Transfer | None
    kv_loads: list[Transfer]
    shares: bool
    hbm_hit_blocks: int = 0
    host_hit_blocks: int = 0
    starts_s: float = math.inf
    arrival: Arrival | None = None

    @property
    def is_ready(self) -> bool:
        """Whether every load has ended and been collected."""
        return not self.pending_loads()

    def pending_loads(self) -> list[Transfer]:
        """Loads that have not ended or not been collected."""
        loads = self.kv_loads if self.adapter_load is None else [self.adapter_load, *self.kv_loads]
        return [load for load in loads if not load.collected]

    @property
    def adapter_is_coming(self) -> bool:
        return self.adapter_load is not None and not self.adapter_load.collected

    def may_start(self, now_s: float) -> bool:
        """Whether the sequence can compute: everything is there, or all but an adapter it need not wait for."""
        return self.is_ready or (now_s >= self.starts_s and all(load.collected for load in self.kv_loads))

    def load_times(self, admitted_s: float) -> tuple[float, float]:
        """When the adapter stopped keeping the sequence from starting and when all did, not before ``admitted_s``."""
        adapter = [] if self.adapter_load is None else [min(self.adapter_load.finished_s or math.inf, self.starts_s)]
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
