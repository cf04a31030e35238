"""fastlibra with libra's scheduling, to tell what the cache gains from what the order and the timing gain."""

from dataclasses import replace

from libra.cache.fastlibra import FASTLIBRA
from libra.cache.libra_policy import scheduled_as_libra

SCHEDULING = replace(
    scheduled_as_libra(FASTLIBRA),
    name="fastlibra-scheduling",
    summary="fastlibra with libra's order and timing of admission: all of libra but its cache",
)
