"""The contract of a cache policy: a choice of mechanisms and a ranking, as data.

The engine never asks which policy it holds. A new policy is a ``CachePolicy`` value, perhaps with a new ``Ranker``;
``libra bench --policy path/to/file.py:name`` loads it.
"""

from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from libra.errors import LibraError

if TYPE_CHECKING:
    from libra.cache.foresight import Foresight
    from libra.cache.tree import DependencyTree

Scores = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Swap = Literal["out", "in"]
Tier = Literal["hbm", "host"]


@dataclass(frozen=True, slots=True)
class RankingContext:
    """What a ranker may know beside the nodes.

    ``now_s``: the clock. ``swap`` and ``tier``: the decision the scores are for, out of or into that tier.
    ``adapters_in_hbm``: adapters resident or loading. ``low_lora``: Eq. 3, the adapters expected to be needed.
    ``link_bytes_per_s``, ``disk_bytes_per_s``: how fast a node comes back from host memory, and an adapter from disk.
    ``recompute_s_per_block``: delay, over all requests, of computing one KV block again.
    """

    now_s: float
    swap: Swap
    tier: Tier
    adapters_in_hbm: int
    low_lora: float
    link_bytes_per_s: float
    disk_bytes_per_s: float
    recompute_s_per_block: float


class Ranker(ABC):
    """Scores nodes, higher = keep (or bring back first). Vectorised: one call scores every candidate.

    Ties fall to the deeper node, then to the lower node index. A ranker may keep state of its own, by node index or by
    label (``tree.labels``, the same for the same text and adapter whenever it comes back): each cache gets a ``fresh``
    copy, and the ``on_`` methods tell it what happens to nodes. A node's index is reused after ``on_forget``.
    """

    # Whether scores change when an adapter enters or leaves HBM: the swapper then ranks anew after each (Eq. 4).
    depends_on_adapter_count: bool = False
    # Whether it ranks by the requests to come: whoever runs a trace then calls ``foresee`` before the first of them.
    needs_future: bool = False

    @abstractmethod
    def score(self, tree: "DependencyTree", nodes: Indices, context: RankingContext) -> Scores:
        """Scores of ``nodes``, float64 [len(nodes)], finite. Reads the tree's columns; mutates nothing."""

    def fresh(self) -> "Ranker":
        """A copy for one cache, so that no state is shared between runs."""
        return deepcopy(self)

    def foresee(self, future: "Foresight") -> None:
        """Called once before a run where ``needs_future`` is set."""
        return

    def on_admit(self, request_id: int) -> None:
        """Called when a request is admitted for the first time, after ``on_hit``."""
        return

    def on_hit(self, tree: "DependencyTree", nodes: Indices, now_s: float) -> None:
        """Called when a request is admitted, with its adapter and the KV it reuses, wherever they are, root first;
        the tree's columns are already updated."""
        return

    def on_insert(self, tree: "DependencyTree", nodes: Indices, now_s: float) -> None:
        """Called when KV has been computed: new nodes in HBM."""
        return

    def on_enter(self, tree: "DependencyTree", nodes: Indices, now_s: float, prefetched: bool) -> None:
        """Called when nodes that were not in HBM come back: by a load that begins, ahead of need or on demand, by a
        running request that computed them again, or because their eviction is taken back."""
        return

    def on_leave(self, tree: "DependencyTree", nodes: Indices, now_s: float) -> None:
        """Called when ``nodes`` have been chosen to leave HBM."""
        return

    def on_forget(self, tree: "DependencyTree", nodes: Indices, now_s: float) -> None:
        """Called when nodes are gone for good, KV from both tiers or a removed adapter; their labels can still be
        read."""
        return


@dataclass(frozen=True, slots=True)
class SwapperConfig:
    """FASTLIBRA's watermark swapper: every ``tick_s``, above ``high`` HBM use swap out until below it;
    below ``low`` swap in until there. ``prefetch`` False keeps only the first half."""

    tick_s: float = 0.1
    high: float = 0.95
    low: float = 0.70
    prefetch: bool = True

    def __post_init__(self) -> None:
        if not (self.tick_s > 0 and 0 <= self.low <= self.high <= 1):
            raise LibraError(f"swapper: need tick_s > 0 and 0 <= low <= high <= 1, got {self}")


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Everything that tells one published system from another (docs/policies.md).

    name: shown in tables.
    summary: one line for ``libra policies``.
    ranker: what to keep.
    adapter_share: None = one unified pool; else the static share of HBM blocks set aside for adapters.
    max_adapters: the same by number: so many padded slots set aside (no more than there are adapters).
    dependency: a node may be in HBM only while its parent is (no invalid KV by construction).
    history_kv: keep finished requests' KV for reuse, or discard it (then nothing is shared either).
    idle_adapters: keep an adapter in HBM when no request uses it, or discard it at once.
    host_kv_tier: evicted KV goes to host memory instead of being dropped.
    write_back: save KV to the host tier when evicted, or already when its request finishes: always, or only into host
        memory that is free.
    swap_unit: nodes one by one, or whole branches: an adapter with all KV below it, ranked by the adapter's score.
    reload: bring host KV back always, or only where that is cheaper than recomputing it.
    swapper: the watermark swapper, or None.
    prefetch: load adapters of queued requests ahead of their admission, looking ``lookahead`` requests deep.
    spare_queued: adapters of those queued requests leave HBM last.
    adapter_load: async = others run meanwhile; blocking = the load stalls the whole step; by_layer = the request starts
        when the first layer's weights are there, and its first step waits for each further layer.
    cold_start: a request waits for its adapter, or starts at once: cpu_assist computes the adapter's product of its
        prefill on CPU cores, layer group by layer group, until the weights are there.
    adapter_slots: adapters take their exact size in HBM, or a slot padded to the largest rank.
    visit_scope: a match counts for every node of the path, or for the deepest only (docs/policies.md: `wom-last`).
    visit_half_life_s: decay of visit counts; the default is measured (results/tuning).
    scheduler: the order of the waiting queue (libra.engine.queueing).
    max_pass_s: how long requests behind it may pass a waiting request.
    passing: requests may pass one that waits for memory of any kind, or only one that waits for an adapter slot.
    admission: admit when the known tokens fit, or only when the outputs of all admitted requests will fit too.
    admits: between steps, or at any time: as soon as a request arrives or memory comes free, while a step computes, so
        that loads and saves are under way or over when the next step begins.
    awaits_loads: a step waits for loads under way where that saves those who need them more than it costs the others.
    """

    name: str
    summary: str
    ranker: Ranker
    adapter_share: float | None = None
    max_adapters: int | None = None
    dependency: bool = True
    history_kv: Literal["keep", "discard"] = "keep"
    idle_adapters: Literal["keep", "discard"] = "keep"
    host_kv_tier: bool = True
    write_back: Literal["on_evict", "on_finish", "into_free"] = "on_evict"
    swap_unit: Literal["node", "branch"] = "node"
    reload: Literal["always", "cheaper"] = "always"
    swapper: SwapperConfig | None = None
    prefetch: Literal["none", "queue"] = "none"
    lookahead: int = 32
    spare_queued: bool = False
    adapter_load: Literal["async", "blocking", "by_layer"] = "async"
    cold_start: Literal["wait", "cpu_assist"] = "wait"
    adapter_slots: Literal["exact", "padded"] = "exact"
    visit_scope: Literal["path", "last"] = "path"
    visit_half_life_s: float = 600.0
    scheduler: Literal["fcfs", "rank_aware", "multi_queue", "response_ratio"] = "fcfs"
    max_pass_s: float = 1.0
    passing: Literal["any", "adapter_slot"] = "any"
    admission: Literal["known_tokens", "with_outputs"] = "known_tokens"
    admits: Literal["between_steps", "at_any_time"] = "between_steps"
    awaits_loads: bool = False

    def __post_init__(self) -> None:
        if self.adapter_share is not None and not 0 < self.adapter_share < 1:
            raise LibraError(f"policy {self.name!r}: adapter_share must lie between 0 and 1, got {self.adapter_share}")
        if self.adapter_share is not None and self.max_adapters is not None:
            raise LibraError(f"policy {self.name!r}: adapter_share and max_adapters both set; keep one")
        if self.max_adapters is not None and (self.max_adapters < 1 or self.adapter_slots != "padded"):
            raise LibraError(
                f"policy {self.name!r}: max_adapters must be at least 1 and needs adapter_slots padded, got "
                f"{self.max_adapters} and {self.adapter_slots}"
            )
        if self.splits_hbm and self.dependency:
            field = "adapter_share" if self.max_adapters is None else "max_adapters"
            raise LibraError(
                f"policy {self.name!r}: {field} needs dependency False: otherwise an adapter could leave its "
                "share only after KV that lives in the other"
            )
        if self.spare_queued and self.prefetch != "queue":
            raise LibraError(f"policy {self.name!r}: spare_queued needs prefetch queue, which looks at the queue")
        if self.swap_unit == "branch" and not self.dependency:
            raise LibraError(f"policy {self.name!r}: swap_unit branch needs dependency: it is what makes a branch")
        if self.cold_start == "cpu_assist" and self.adapter_load != "async":
            raise LibraError(f"policy {self.name!r}: cold_start cpu_assist needs adapter_load async")
        if self.write_back != "on_evict" and not self.host_kv_tier:
            raise LibraError(f"policy {self.name!r}: write_back {self.write_back} needs host_kv_tier")
        if not (self.visit_half_life_s > 0 and self.max_pass_s >= 0 and self.lookahead >= 1):
            raise LibraError(
                f"policy {self.name!r}: need visit_half_life_s > 0, max_pass_s >= 0 and lookahead >= 1, got "
                f"{self.visit_half_life_s}, {self.max_pass_s} and {self.lookahead}"
            )

    @property
    def splits_hbm(self) -> bool:
        """Whether adapters and KV have regions of HBM of their own."""
        return self.adapter_share is not None or self.max_adapters is not None

    @property
    def starts_cold(self) -> bool:
        """Whether a request may start to compute before all of its adapter is in HBM."""
        return self.adapter_load == "by_layer" or self.cold_start == "cpu_assist"

    def settings(self) -> dict[str, object]:
        """The fields by name, for meta.json and ``libra policies``; ranker and swapper as text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"ranker": str(self.ranker), "swapper": None if self.swapper is None else str(self.swapper)}
