"""FASTLIBRA as published (arXiv 2505.03756; ELORA, HPCA 2026)."""

from libra.cache.cost_model import CostModel
from libra.cache.policy import CachePolicy, SwapperConfig

FASTLIBRA = CachePolicy(
    name="fastlibra",
    summary="unified pool, dependency tree, cost model (Eq. 3-6), 100 ms swapper with prefetch, host KV tier",
    ranker=CostModel(),
    swapper=SwapperConfig(),
)
