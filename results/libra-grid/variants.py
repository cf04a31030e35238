"""fastlibra with parts of libra's scheduling, to tell what the cache gains from what the order and the timing gain."""

from dataclasses import replace

from libra.cache.fastlibra import FASTLIBRA
from libra.cache.libra_policy import LIBRA

TIMING = replace(
    FASTLIBRA,
    name="fastlibra-timing",
    summary="fastlibra that admits while steps compute and lets steps wait for loads where that pays",
    admits=LIBRA.admits,
    awaits_loads=LIBRA.awaits_loads,
)
ORDER = replace(
    FASTLIBRA,
    name="fastlibra-order",
    summary="fastlibra with libra's order of admission",
    scheduler=LIBRA.scheduler,
    max_pass_s=LIBRA.max_pass_s,
)
SCHEDULING = replace(
    TIMING,
    name="fastlibra-scheduling",
    summary="fastlibra with libra's order and timing of admission: all of libra but its cache",
    scheduler=LIBRA.scheduler,
    max_pass_s=LIBRA.max_pass_s,
)
