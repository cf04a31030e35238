"""The paper's ablations (arXiv 2505.03756; HPCA 2026): fastlibra with one thing taken away.

The paper's WOM leaves 48.6 % of the KV invalid. That needs a match to count for the deepest node alone: when it counts
for the whole path, no score falls toward the root and the lowest one is a leaf with or without the rule. ``wom`` keeps
fastlibra's reading, ``wom-last`` takes the other.
"""

from dataclasses import replace

from libra.cache.cost_model import CostModel
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.rankers import LeastRecentlyUsed

WOM = replace(FASTLIBRA, name="wom", summary="fastlibra without the dependency rule", dependency=False)
WOM_LAST = replace(
    WOM,
    name="wom-last",
    summary="wom with a match counted for the deepest node alone",
    visit_scope="last",
)
WOS = replace(
    FASTLIBRA, name="wos", summary="fastlibra without the cost model: LRU in its place", ranker=LeastRecentlyUsed()
)
WOL = replace(
    FASTLIBRA,
    name="wol",
    summary="fastlibra without Eq. 4, the number of adapters in HBM",
    ranker=CostModel(use_adapter_eval=False),
)
WOC = replace(
    FASTLIBRA, name="woc", summary="fastlibra without the cost of coming back", ranker=CostModel(use_cost=False)
)
WOV = replace(FASTLIBRA, name="wov", summary="fastlibra without visit counts", ranker=CostModel(use_visits=False))
WOU = replace(FASTLIBRA, name="wou", summary="fastlibra without recency", ranker=CostModel(use_recency=False))
BFS = replace(FASTLIBRA, name="bfs", summary="fastlibra that swaps whole branches", swap_unit="branch")

ABLATIONS = (WOM, WOM_LAST, WOS, WOL, WOC, WOV, WOU, BFS)
