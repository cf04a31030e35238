"""Least recently used on the dependency tree."""

from dataclasses import replace

from libra.cache.fastlibra import FASTLIBRA
from libra.cache.rankers import LeastRecentlyUsed

LRU = replace(
    FASTLIBRA,
    name="lru",
    summary="fastlibra with LRU in place of the cost model",
    ranker=LeastRecentlyUsed(),
)
