"""The policies under test: all that are registered, and what ``replace`` can make of them."""

from dataclasses import replace

from baselines import POLICIES
from libra.cache.cost_model import CostModel
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import CachePolicy, SwapperConfig

VARIANTS: dict[str, CachePolicy] = dict(POLICIES.items()) | {
    "sglang": replace(POLICIES["sglang"], max_adapters=1),
    "write-back": replace(FASTLIBRA, write_back="on_finish"),
    "cheaper": replace(FASTLIBRA, reload="cheaper"),
    "last-visit": replace(FASTLIBRA, visit_scope="last"),
    "no-host-tier": replace(FASTLIBRA, host_kv_tier=False),
    "no-swapper": replace(FASTLIBRA, swapper=None),
    "hpca": replace(FASTLIBRA, ranker=CostModel(eq4="hpca")),
    "look-ahead": replace(FASTLIBRA, prefetch="queue", idle_adapters="discard"),
    "eager-swapper": replace(FASTLIBRA, swapper=SwapperConfig(high=0.6, low=0.5)),
    "blocking-offload": replace(POLICIES["vllm-offload"], adapter_load="blocking"),
    "padded-offload": replace(POLICIES["vllm-offload"], write_back="on_evict", swapper=SwapperConfig()),
    "by-layer": replace(FASTLIBRA, adapter_load="by_layer"),
    "by-layer-slots": replace(POLICIES["sglang"], max_adapters=1, adapter_load="by_layer"),
    "rank-aware": replace(FASTLIBRA, scheduler="rank_aware"),
    "multi-queue": replace(FASTLIBRA, scheduler="multi_queue"),
}

# What a cache without a scheduler cannot tell from another of the variants.
_ALIKE = {"wos", "wol", "woc", "wov", "wou", "caraserve", "caraserve-rank-aware", "chameleon-fcfs", "rank-aware"}
_ALIKE |= {"multi-queue", "by-layer", "by-layer-slots", "vllm-async"}
CACHE_VARIANTS = {name: policy for name, policy in VARIANTS.items() if name not in _ALIKE}
