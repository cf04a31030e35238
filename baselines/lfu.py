"""Least frequently used on the dependency tree."""

from dataclasses import dataclass, replace

from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import Indices, Ranker, RankingContext, Scores
from libra.cache.tree import DependencyTree


@dataclass(frozen=True)
class LeastFrequentlyUsed(Ranker):
    """Score = log of the decayed visit count (LRFU: Lee et al., IEEE Trans. Computers 2001).

    Counts that never fade keep what was popular once; LRFU halves the weight of a visit every half-life, here the
    policy's ``visit_half_life_s``. Sizes need no attention: what a block costs to bring back is the same for adapters
    and KV, so visits per block are worth their number.
    """

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        return tree.log_visits_at(nodes, context.now_s)


LFU = replace(
    FASTLIBRA,
    name="lfu",
    summary="fastlibra with LFU (decayed visit counts) in place of the cost model",
    ranker=LeastFrequentlyUsed(),
)
