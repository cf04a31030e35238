"""vLLM: a static share for adapters, prefix caching, two LRUs that know nothing of each other (vLLM 0.33)."""

import math
from dataclasses import replace

from libra.cache.policy import CachePolicy
from libra.cache.rankers import LeastRecentlyUsed

VLLM = CachePolicy(
    name="vllm",
    summary="static share 0.2 in padded slots, two LRUs apart, evicted KV dropped, an adapter load blocks the step",
    ranker=LeastRecentlyUsed(),
    adapter_share=0.2,
    dependency=False,
    host_kv_tier=False,
    adapter_load="blocking",
    adapter_slots="padded",
    # vLLM skips a request whose adapter finds no slot for as long as it takes, and admits nobody past one that waits
    # for KV blocks (v1/core/sched/scheduler.py).
    max_pass_s=math.inf,
    passing="adapter_slot",
)

VLLM_ASYNC = replace(
    VLLM,
    name="vllm-async",
    summary="vllm, but an adapter load lets other requests run meanwhile",
    adapter_load="async",
)

VLLM_OFFLOAD = replace(
    VLLM_ASYNC,
    name="vllm-offload",
    summary="vllm-async with a host tier for KV, written when a request finishes",
    host_kv_tier=True,
    write_back="on_finish",
)
