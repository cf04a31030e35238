"""Least frequently used on the dependency tree."""

from dataclasses import replace

from libra.cache.fastlibra import FASTLIBRA
from libra.cache.rankers import LeastFrequentlyUsed

LFU = replace(
    FASTLIBRA,
    name="lfu",
    summary="fastlibra with LFU (decayed visit counts) in place of the cost model",
    ranker=LeastFrequentlyUsed(),
)
