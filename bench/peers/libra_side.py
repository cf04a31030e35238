"""A policy of libra on given requests, one at a time, in simulated time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from libra.cache.policy import CachePolicy
from libra.engine.build import CacheSizes, build_simulated_engine
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.profile import datasheet_profile
from libra.engine.replay import replay
from libra.request import Request
from libra.spec import DEVICES, MODELS, TARGET_MODULES, AdapterSpec

# Which model and device do not matter: hits are a matter of tokens and blocks alone.
MODEL, DEVICE = "llama3-8b", "h800"
RANK = 16


@dataclass(frozen=True)
class PolicyRun:
    """Prompt tokens found in HBM by request, preemptions over the run, and seconds in calls of the cache by name."""

    hit_tokens: list[int]
    preemptions: int
    seconds: dict[str, float]


def run_policy(
    policy: CachePolicy, requests: Sequence[Request], num_adapters: int, block_tokens: int, kv_blocks: int, slots: int
) -> PolicyRun:
    """Runs ``requests`` under ``policy`` with ``slots`` adapter slots and ``kv_blocks`` blocks of KV beside them."""
    model = MODELS[MODEL]
    adapters = [AdapterSpec(f"lora-{index:02d}", RANK, TARGET_MODULES) for index in range(num_adapters)]
    slot_blocks = adapters[0].num_blocks(model, block_tokens)
    sizes = CacheSizes(slots * slot_blocks + kv_blocks, num_adapters * slot_blocks + 1)
    policy = replace(policy, adapter_share=None, max_adapters=slots)
    config = EngineConfig(block_tokens=block_tokens, timeline_s=None)
    engine = build_simulated_engine(
        policy, model, adapters, sizes, datasheet_profile(DEVICES[DEVICE], model, 1), config
    )
    region = engine.manager.memory.hbm.kv_region
    assert region.num_blocks == kv_blocks, f"{region.num_blocks} blocks of KV, not {kv_blocks}"
    seconds = _time_calls(engine)
    result = replay(engine, requests)
    unserved = [record for record in result.records if record.status != "finished"]
    assert not unserved, f"request {unserved[0].id} was {unserved[0].status}: {unserved[0].reason}"
    hits = [record.hbm_hit_tokens for record in result.records]
    return PolicyRun(hits, int(result.counters["preemptions"]), seconds)


def _time_calls(engine: Engine) -> dict[str, float]:
    """Sums up, from now on, the CPU seconds of the cache's calls, in the dictionary returned.

    ``admit`` includes the evictions it makes, which ``evict`` counts too.
    """
    manager, memory = engine.manager, engine.manager.memory
    seconds = {"admit": 0.0, "insert": 0.0, "evict": 0.0, "release": 0.0}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            started_s = time.process_time()
            result = call(*arguments)
            seconds[name] += time.process_time() - started_s
            return result

        return measured

    calls = ((manager, "admit", "admit"), (manager, "commit", "insert"), (memory, "evict", "evict"))
    for owner, method, name in (*calls, (manager, "release", "release")):
        setattr(owner, method, timed(name, getattr(owner, method)))
    return seconds
