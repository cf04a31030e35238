"""Rankings that need no cost model."""

from dataclasses import dataclass

import numpy as np

from libra.cache.policy import Indices, Ranker, RankingContext, Scores
from libra.cache.tree import DependencyTree


@dataclass(frozen=True)
class LeastRecentlyUsed(Ranker):
    """Score = last use. Nodes of one path share it, and the tie rule takes the tail of the path first."""

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        return tree.last_use[nodes]


@dataclass(frozen=True)
class KvBeforeAdapters(Ranker):
    """KV first, adapters only when no KV is left, least recently used within each."""

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        # Last uses never exceed now, so adding now + 1 lifts every adapter above every KV node.
        return tree.last_use[nodes] + np.where(tree.is_adapter[nodes], context.now_s + 1.0, 0.0)


@dataclass(frozen=True)
class LeastFrequentlyUsed(Ranker):
    """Score = log of the decayed visit count (LRFU: Lee et al., IEEE Trans. Computers 2001).

    Counts that never fade keep what was popular once; LRFU halves the weight of a visit every half-life, here the
    policy's ``visit_half_life_s``. Sizes need no attention: what a block costs to bring back is the same for adapters
    and KV, so visits per block are worth their number.
    """

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        return tree.log_visits_at(nodes, context.now_s)
