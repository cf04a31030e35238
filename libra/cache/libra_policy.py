"""libra's own policy: what the study (results/, docs/libra-policy.md) says pays, and nothing else."""

from dataclasses import replace

from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import CachePolicy
from libra.cache.rankers import LeastFrequentlyUsed


def scheduled_as_libra(policy: CachePolicy) -> CachePolicy:
    """``policy`` with libra's order and timing of admission; what its cache keeps stays its own."""
    return replace(policy, scheduler="response_ratio", max_pass_s=20.0, admits="at_any_time", awaits_loads=True)


LIBRA = replace(
    scheduled_as_libra(FASTLIBRA),
    name="libra",
    summary="fastlibra that admits while steps compute, longest wait per block first, decayed visits as ranker",
    ranker=LeastFrequentlyUsed(),
    write_back="into_free",
)
