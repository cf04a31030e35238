"""Policies of the study by name: the registered ones, and variants that differ in a setting or two."""

from dataclasses import replace
from functools import cache

from baselines.ablations import WOM
from baselines.clairvoyant import CLAIRVOYANT
from baselines.vllm import VLLM_OFFLOAD
from bench.oracle import Choice, find_choice
from libra.cache.cost_model import CostModel, Eq4
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.libra_policy import scheduled_as_libra
from libra.cache.policy import CachePolicy, SwapperConfig
from libra.cache.rankers import LeastRecentlyUsed
from libra.errors import LibraError

# fastlibra's own value is in none of these: it is the column that all are compared with.
TICKS_S = (0.001, 0.01, 1.0)
TAUS_S = (1.0, 30.0, 120.0, 600.0)
HALF_LIVES_S = (10.0, 60.0, 3600.0)
READINGS: tuple[Eq4, ...] = ("hpca", "v1")
# The static shares of Fig. 19.
SHARES = tuple(step / 20 for step in range(1, 11))

OFFLOAD_ON_EVICT = replace(VLLM_OFFLOAD, name="offload-on-evict", write_back="on_evict")
NO_TREE_LRU = replace(WOM, name="no-tree-lru", ranker=LeastRecentlyUsed(), swapper=None)
TREE_LRU = replace(FASTLIBRA, name="tree-lru", ranker=LeastRecentlyUsed(), swapper=None)
# What perfect victims would give libra, whose gain is mostly when and in which order requests are admitted.
CLAIRVOYANT_IN_TIME = replace(scheduled_as_libra(CLAIRVOYANT), name="clairvoyant-in-time")


def variants() -> dict[str, CachePolicy]:
    """The policies that only this study has, by name."""
    made = [
        OFFLOAD_ON_EVICT,
        NO_TREE_LRU,
        TREE_LRU,
        CLAIRVOYANT_IN_TIME,
        replace(FASTLIBRA, name="evict-when-full", swapper=None),
        replace(FASTLIBRA, name="no-prefetch", swapper=SwapperConfig(prefetch=False)),
        replace(FASTLIBRA, name="no-host-kv", host_kv_tier=False),
        replace(FASTLIBRA, name="write-on-finish", write_back="on_finish"),
        *(replace(FASTLIBRA, name=f"tick-{1000 * tick_s:g}ms", swapper=SwapperConfig(tick_s)) for tick_s in TICKS_S),
        *(replace(FASTLIBRA, name=f"eq4-{reading}", ranker=CostModel(eq4=reading)) for reading in READINGS),
        *(replace(FASTLIBRA, name=f"tau-{tau_s:g}s", ranker=CostModel(tau_s=tau_s)) for tau_s in TAUS_S),
        *(replace(FASTLIBRA, name=f"half-life-{life_s:g}s", visit_half_life_s=life_s) for life_s in HALF_LIVES_S),
    ]
    return {policy.name: policy for policy in made}


@cache
def policy_of(name: str) -> Choice:
    """The policy of a cell. Raises LibraError on an unknown name."""
    oracle, at, share = name.partition("@")
    if at:
        base = find_choice(oracle).candidates[0]
        return Choice.of(replace(base, name=name, adapter_share=float(share)))
    own = variants()
    return Choice.of(own[name]) if name in own else find_choice(name)


def static_share(share: float) -> str:
    """The name of vllm with this static share for adapters."""
    if not 0 < share < 1:
        raise LibraError(f"a static share must lie between 0 and 1, got {share}")
    return f"vllm@{share:.2f}"
