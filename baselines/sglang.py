"""SGLang (0.5.23): adapter slots of a fixed number, a radix cache isolated by adapter, loads that overlap."""

import math

from libra.cache.policy import CachePolicy
from libra.cache.rankers import LeastRecentlyUsed

SGLANG = CachePolicy(
    name="sglang",
    summary="eight padded adapter slots by LRU, KV by LRU apart from them, evicted KV dropped, loads overlap",
    ranker=LeastRecentlyUsed(),
    # lora.py: max_loras_per_batch 8; enable_lora_overlap_loading, off by default, is on here.
    max_adapters=8,
    adapter_slots="padded",
    dependency=False,
    host_kv_tier=False,
    # A request whose adapter finds no slot is skipped for as long as it takes; behind one that finds no KV all wait.
    max_pass_s=math.inf,
    passing="adapter_slot",
)
