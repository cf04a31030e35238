"""Re-reference interval prediction on the dependency tree (Jaleel et al., ISCA 2010)."""

from dataclasses import dataclass, field, replace

import numpy as np

from baselines.node_state import Column, HbmRanker, fitted, new_column
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import Indices, RankingContext, Scores
from libra.cache.tree import DependencyTree

# The paper's constants: 32 of the sets lead for each side, one insertion in 32 of BRRIP's is a long one, 10-bit PSEL.
LEADER_CLASSES = 32
LONG_INSERTIONS = 32
SELECTOR_LIMIT = 512


@dataclass
class _Predictions:
    """``offset``: prediction less the clock when it was made, by node. ``clock``: how often all nodes have aged."""

    offset: Column = field(default_factory=new_column)
    clock: int = 0
    selector: int = 0
    num_distant: int = 0


@dataclass(frozen=True)
class Rrip(HbmRanker):
    """DRRIP with hit priority: each node carries a ``bits``-wide prediction of how far off its next use is.

    A hit predicts *immediate* (0). Insertion predicts *long* (2^bits - 2, SRRIP) or nearly always *distant*
    (2^bits - 1, BRRIP); some insertions lead for one side or the other, and the side whose leaders miss less rules the
    rest. A node predicted distant leaves; when there is none, all age until there is.

    A cache without sets has no leader sets: the label of a chain's first node decides whether it leads, and a chain
    computed at once is inserted alike. Within equal predictions the least recently used leaves first, where the
    original takes the lowest way. Sizes need no attention: what a block costs to bring back is the same for all.
    """

    bits: int = 2
    _state: _Predictions = field(default_factory=_Predictions, init=False, repr=False, compare=False)

    @property
    def distant(self) -> int:
        return (1 << self.bits) - 1

    def victim_score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        # Leaving out the clock shifts all scores alike, so that they stay comparable while it moves.
        recency = tree.last_use[nodes] / (context.now_s + 1.0)
        return recency - fitted(self._state.offset, tree)[nodes]

    def on_hit(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._predict(tree, nodes, 0)

    def on_insert(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._predict(tree, nodes, self._insertion(tree.labels[int(nodes[0])]))

    def on_enter(self, tree: DependencyTree, nodes: Indices, now_s: float, prefetched: bool) -> None:
        if prefetched:
            self._predict(tree, nodes, self.distant - 1)
        else:
            self.on_insert(tree, nodes, now_s)

    def on_leave(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        """Ages everyone until the last of ``nodes`` to be found was distant."""
        state = self._state
        nearest = float(fitted(state.offset, tree)[nodes].min()) + state.clock
        state.clock += max(0, self.distant - int(nearest))

    def _predict(self, tree: DependencyTree, nodes: Indices, interval: int) -> None:
        state = self._state
        state.offset = fitted(state.offset, tree)
        state.offset[nodes] = interval - state.clock

    def _insertion(self, label: int) -> int:
        """The prediction for what a miss brings; takes note of the miss."""
        state = self._state
        leads = label % LEADER_CLASSES
        if leads in (0, 1):
            step = 1 if leads == 0 else -1
            state.selector = int(np.clip(state.selector + step, -SELECTOR_LIMIT, SELECTOR_LIMIT))
        bimodal = leads == 1 or (leads != 0 and state.selector > 0)
        if not bimodal:
            return self.distant - 1
        state.num_distant += 1
        return self.distant - 1 if state.num_distant % LONG_INSERTIONS == 0 else self.distant


RRIP = replace(
    FASTLIBRA, name="rrip", summary="fastlibra with DRRIP in place of the cost model (ISCA 2010)", ranker=Rrip()
)
