"""GreedyDual-Size-Frequency on the dependency tree (Cherkasova, HP Labs report HPL-98-69, 1998)."""

from dataclasses import dataclass, field, replace

import numpy as np

from baselines.node_state import Column, fitted, new_column
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import Indices, Ranker, RankingContext, Scores, Tier
from libra.cache.tree import DependencyTree

TIERS: tuple[Tier, Tier] = ("hbm", "host")


@dataclass
class _Priorities:
    """``count``: uses of a node. ``base`` and ``floor``, per tier: GreedyDual's L at a node's last use, and now."""

    count: Column = field(default_factory=new_column)
    base: dict[Tier, Column] = field(default_factory=lambda: {tier: new_column() for tier in TIERS})
    floor: dict[Tier, float] = field(default_factory=lambda: dict.fromkeys(TIERS, 0.0))


@dataclass(frozen=True)
class GreedyDualSizeFrequency(Ranker):
    """Score = L + count * cost / size, L being the score of the last node that left: what is not used is overtaken.

    The cost of losing a node is the time to get it back, which grows with its size. Whatever competes for room comes
    back the same way (from HBM all over the link; host memory sorts KV from adapters before it asks), so cost / size is
    one number and set to 1. HBM and host memory have an L each. Counts live as long as the node is in the tree, where
    the original forgets them on every eviction.
    """

    _state: _Priorities = field(default_factory=_Priorities, init=False, repr=False, compare=False)

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        return self._priority(tree, nodes, context.tier)

    def _priority(self, tree: DependencyTree, nodes: Indices, tier: Tier) -> Scores:
        state = self._state
        return fitted(state.base[tier], tree)[nodes] + fitted(state.count, tree)[nodes]

    def on_hit(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._use(tree, nodes, fitted(self._state.count, tree)[nodes] + 1.0)

    def on_insert(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._use(tree, nodes, np.ones(len(nodes)))

    def _use(self, tree: DependencyTree, nodes: Indices, counts: Column) -> None:
        state = self._state
        state.count = fitted(state.count, tree)
        state.count[nodes] = counts
        for tier in TIERS:
            state.base[tier] = fitted(state.base[tier], tree)
            state.base[tier][nodes] = state.floor[tier]

    def on_leave(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._raise_floor(tree, nodes, "hbm")

    def on_forget(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._raise_floor(tree, nodes, "host")

    def _raise_floor(self, tree: DependencyTree, nodes: Indices, tier: Tier) -> None:
        highest = float(self._priority(tree, nodes, tier).max())
        self._state.floor[tier] = max(self._state.floor[tier], highest)


GDSF = replace(
    FASTLIBRA,
    name="gdsf",
    summary="fastlibra with GreedyDual-Size-Frequency in place of the cost model",
    ranker=GreedyDualSizeFrequency(),
)
