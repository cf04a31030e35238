"""Hits and bytes of every policy on one small trace: `python -m tests.baselines.golden_run [SIZE ...]` prints JSON."""

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from baselines import POLICIES
from libra.engine.engine import Engine
from libra.engine.replay import replay
from libra.request import Request
from tests.libra.builders import BLOCK_TOKENS, EngineConfig, adapters, build_engine
from tests.libra.loads import session_load

# 120 requests of about 35 sessions over five adapters of 2, 4, 2, 4 and 2 blocks; in all they touch some 700 blocks.
# Blocks of HBM from a few requests' worth to nearly everything.
CACHE_SIZES = (40, 80, 160, 480)
HOST_BLOCKS = 300
COUNTERS = ("swap_in_bytes", "swap_out_bytes", "adapter_in_bytes", "evicted_blocks", "dropped_kv_blocks", "preemptions")


def golden_counts(sizes: Iterable[int] = CACHE_SIZES) -> dict[str, dict[str, dict[str, int]]]:
    """policy -> HBM blocks -> counts."""
    return {name: {str(size): _counts(name, size) for size in sizes} for name in POLICIES}


def _counts(name: str, hbm_blocks: int) -> dict[str, int]:
    result = replay(golden_engine(name, hbm_blocks), golden_load())
    counts: dict[str, Any] = {
        "finished": sum(record.status == "finished" for record in result.records),
        "adapter_hits": sum(record.adapter_tier == "hbm" for record in result.records),
        "hbm_hit_tokens": sum(record.hbm_hit_tokens for record in result.records),
        "host_hit_tokens": sum(record.host_hit_tokens for record in result.records),
    }
    return counts | {key: int(result.counters[key]) for key in COUNTERS}


def golden_load() -> list[Request]:
    """The trace, the same for every policy and size."""
    return session_load(120, ["a0", "a1", "a2", "a3", "a4"], seed=5, mean_gap_s=0.15)


def golden_engine(name: str, hbm_blocks: int) -> Engine:
    """An engine for the trace with an empty cache."""
    policy = POLICIES[name]
    if policy.max_adapters is not None:
        policy = replace(policy, max_adapters=2)  # of five adapters, as eight of twenty or more
    specs = adapters(1, 2, 1, 2, 1)
    return build_engine(policy, hbm_blocks, HOST_BLOCKS, specs, EngineConfig(block_tokens=BLOCK_TOKENS))


def as_text(counts: dict[str, dict[str, dict[str, int]]]) -> str:
    return json.dumps(counts, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_text(golden_counts([int(size) for size in sys.argv[1:]] or CACHE_SIZES)))
