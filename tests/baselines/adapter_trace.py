"""A cache of equal adapters and nothing else, so that rankings meet the world their authors wrote them for."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from libra.cache.policy import CachePolicy
from tests.libra.builders import adapters, build_cache, request, serve

ADAPTER_BLOCKS = 2


def zipf_trace(num_requests: int, num_adapters: int, exponent: float, seed: int) -> NDArray[np.int64]:
    """Adapters by popularity ``1 / rank ** exponent``, a stretch of one-off ones in every hundred requests, and a new
    order of popularity half-way."""
    generator = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, num_adapters + 1) ** exponent
    trace = generator.choice(num_adapters, num_requests, p=weights / weights.sum())
    trace[num_requests // 2 :] = generator.permutation(num_adapters)[trace[num_requests // 2 :]]
    for start in range(60, num_requests, 100):
        trace[start : start + 15] = (np.arange(15) + start) % num_adapters
    return trace


def count_misses(policy: CachePolicy, trace: NDArray[np.int64], capacity: int) -> int:
    """Loads of adapters when requests come a second apart, each after the one before has ended, and every eviction is
    ranked anew. No request fills a block, so there is no KV to keep."""
    policy = replace(policy, swapper=None, visit_half_life_s=1e9)
    num_adapters = int(trace.max()) + 1
    room = capacity * ADAPTER_BLOCKS + 1  # one block for what the request computes
    cache = build_cache(policy, room, num_adapters * ADAPTER_BLOCKS + 8, adapters(*[1] * num_adapters))
    for number, adapter in enumerate(trace.tolist()):
        cache.pass_time(1.0)
        serve(cache, request(number, (1, 2), (1,), f"a{adapter}"))
    return cache.memory.counters.adapter_in_bytes // int(cache.tree.num_bytes[cache.manager.adapter_node("a0")])
