"""The control the paper lacks: the tree and the swapper, with a fixed order in place of the cost model."""

from dataclasses import replace

from libra.cache.fastlibra import FASTLIBRA
from libra.cache.rankers import KvBeforeAdapters

ORDER_ONLY = replace(
    FASTLIBRA,
    name="order-only",
    summary="fastlibra with a fixed order: KV leaves first, adapters last, LRU within",
    ranker=KvBeforeAdapters(),
)
