"""What is left to gain: eviction by the next use, read from the trace (Belady, IBM Systems Journal 1966)."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from baselines.node_state import fitted
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.foresight import UNKNOWN, Foresight
from libra.cache.policy import Indices, Ranker, RankingContext, Scores
from libra.cache.tree import DependencyTree
from libra.errors import LibraError

# What is due at once, and what is never used again, in seconds from now.
DUE_S, NEVER_S = 1e-3, 1e9
NOT_LOOKED_UP = -2.0


@dataclass
class _Outlook:
    """``num_served``: uses of each cell by requests that have been admitted. ``cell``: node -> cell of the future."""

    future: Foresight | None = None
    num_served: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    cell: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class NextUse(Ranker):
    """Score = (what it costs to bring a block of the node back) / (time to its next use), as a log.

    Keeping a node until its next use holds its blocks for that long and saves its cost once, so this is what is saved
    per block and second held. Among KV blocks, which all cost the same, it is Belady's rule: the one used last leaves
    first. Adapters enter by bytes per block: a slot that is partly padding saves less for its room. From HBM all comes
    back over the link, so that cost is bytes; from host memory KV has to be recomputed and adapters read from disk, so
    there it is seconds. A prefix is never used later than what hangs on it, so the dependency rule costs nothing among
    KV; an adapter leaves when its KV has.

    The next use is the first by a request that has not been admitted. One that waits in the queue is due now. A request
    that waits for others may arrive later than its earliest time, which is all the trace tells: until it does, what it
    needs counts as due.
    """

    needs_future = True
    _outlook: _Outlook = field(default_factory=_Outlook, init=False, repr=False, compare=False)

    def foresee(self, future: Foresight) -> None:
        outlook = self._outlook
        outlook.future, outlook.num_served = future, np.zeros(future.num_cells, dtype=np.int64)

    def on_admit(self, request_id: int) -> None:
        self._outlook.num_served[self._future().uses_of(request_id)] += 1

    def on_insert(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._look_up(tree, nodes)

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        wait_s = np.clip(self._next_use(tree, nodes) - context.now_s, DUE_S, NEVER_S)
        log_cost = tree.log_bytes[nodes] - np.log(np.maximum(tree.size[nodes], 1))
        if context.tier == "host":
            log_recompute = np.log(max(context.recompute_s_per_block, 1e-12))
            log_cost = np.where(tree.is_adapter[nodes], log_cost - np.log(context.disk_bytes_per_s), log_recompute)
        scores: Scores = log_cost - np.log(wait_s)
        return scores

    def _next_use(self, tree: DependencyTree, nodes: Indices) -> npt.NDArray[np.float64]:
        """The time of each node's next use; infinite for none."""
        first, times = self._future().use_times
        outlook = self._outlook
        outlook.cell = fitted(outlook.cell, tree, NOT_LOOKED_UP)
        self._look_up(tree, nodes[outlook.cell[nodes] == NOT_LOOKED_UP])
        cells = outlook.cell[nodes].astype(np.int64)
        next_uses = np.full(len(nodes), np.inf)
        known = cells != UNKNOWN
        place = first[cells[known]] + outlook.num_served[cells[known]]
        is_left = place < first[cells[known] + 1]
        next_uses[np.flatnonzero(known)[is_left]] = times[place[is_left]]
        return next_uses

    def _look_up(self, tree: DependencyTree, nodes: Indices) -> None:
        outlook = self._outlook
        outlook.cell = fitted(outlook.cell, tree, NOT_LOOKED_UP)
        outlook.cell[nodes] = self._future().cells([tree.labels[node] for node in nodes.tolist()])

    def _future(self) -> Foresight:
        if self._outlook.future is None:
            raise LibraError("a policy that ranks by next use needs the whole trace beforehand; only a replay has it")
        return self._outlook.future


CLAIRVOYANT = replace(
    FASTLIBRA,
    name="clairvoyant",
    summary="fastlibra with the next use, read from the trace, in place of the cost model",
    ranker=NextUse(),
)
