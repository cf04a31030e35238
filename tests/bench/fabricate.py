"""Plausible runs made without an engine, so that everything after RunResult is tested alone."""

from dataclasses import dataclass

import numpy as np

from bench.conditions import Conditions
from bench.metrics import PolicySummary
from bench.statistics import Estimate
from libra.engine.record import RequestRecord, RunResult

GIB = 1 << 30
CAPTION = "simulated on h800 (datasheet rates)"
CONDITIONS = Conditions(
    workload="chatbot",
    model="llama3-8b",
    num_adapters=50,
    cache_gib=20.0,
    working_set_gib=48.0,
    request_rate=5.0,
    duration_s=60.0,
)


@dataclass(frozen=True)
class Plausible:
    """How a fabricated policy behaves. ``overload`` is the seconds by which the queue grows per second of run."""

    policy: str = "fastlibra"
    prefill_ms: float = 120.0
    queue_ms: float = 80.0
    cold: float = 0.2
    overload: float = 0.0
    invalid: float = 0.0


POLICIES = (
    Plausible("fastlibra", queue_ms=60, cold=0.12),
    Plausible("vllm", queue_ms=240, cold=0.4, invalid=0.31),
    Plausible("vllm-offload", queue_ms=180, cold=0.45, invalid=0.31),
    Plausible("slora", queue_ms=400, prefill_ms=260, cold=0.7, overload=0.4),
    Plausible("lru", queue_ms=90, cold=0.2),
    Plausible("order-only", queue_ms=85, cold=0.22),
)


def record(**changes: object) -> RequestRecord:
    """A finished request, TTFT 100 ms, 3 tokens 10 ms apart; ``changes`` replace fields."""
    fields: dict[str, object] = {
        "id": 0,
        "adapter": "a0",
        "session": "s0",
        "arrival_s": 0.0,
        "prompt_tokens": 100,
        "output_tokens": 3,
        "status": "finished",
        "admitted_s": 0.04,
        "first_token_s": 0.1,
        "finish_s": 0.12,
        "queue_s": 0.04,
        "prefill_s": 0.06,
        "adapter_tier": "hbm",
        "token_times": [0.1, 0.11, 0.12],
    }
    return RequestRecord(**(fields | changes))  # type: ignore[arg-type]


def result(records: list[RequestRecord], **changes: object) -> RunResult:
    """A complete run of 10 s around ``records``, with an empty timeline and no counters."""
    fields: dict[str, object] = {
        "policy": "fastlibra",
        "seed": 0,
        "records": records,
        "timeline": {},
        "counters": {},
        "duration_s": 10.0,
        "device": "sim:h800",
        "caption": CAPTION,
    }
    return RunResult(**(fields | changes))  # type: ignore[arg-type]


def plausible_run(style: Plausible, seed: int = 0, num_requests: int = 300, rate: float = 5.0) -> RunResult:
    """A run with the arrivals, adapters and sessions of ``seed`` (equal for every policy) and ``style``'s latencies."""
    workload, noise = np.random.default_rng(seed), np.random.default_rng([seed, len(style.policy)])
    arrivals = np.cumsum(workload.exponential(1 / rate, num_requests))
    adapters = np.minimum(workload.zipf(1.4, num_requests) - 1, 49)
    prompts, outputs = workload.integers(64, 2048, num_requests), workload.integers(1, 40, num_requests)
    records = []
    for index in range(num_requests):
        arrival, output = float(arrivals[index]), int(outputs[index])
        queue = noise.exponential(style.queue_ms / 1000) + style.overload * arrival
        cold = noise.random() < style.cold
        adapter_load, kv_load = (noise.exponential(0.03), noise.exponential(0.01)) if cold else (0.0, 0.0)
        prefill = noise.gamma(4, style.prefill_ms / 4000)
        first = arrival + queue + adapter_load + kv_load + prefill
        times = (first + 0.02 * np.arange(output) * noise.uniform(0.9, 1.1)).tolist()
        hits = int(prompts[index] * noise.uniform(0, 0.9))
        records.append(
            record(
                id=index,
                adapter=f"a{adapters[index]:02d}",
                session=f"s{index // 3}",
                arrival_s=arrival,
                prompt_tokens=int(prompts[index]),
                output_tokens=output,
                admitted_s=arrival + queue,
                first_token_s=first,
                finish_s=times[-1],
                queue_s=queue,
                adapter_load_s=adapter_load,
                kv_load_s=kv_load,
                prefill_s=prefill,
                adapter_tier="host" if cold else "hbm",
                hbm_hit_tokens=hits,
                host_hit_tokens=int((prompts[index] - hits) * 0.3),
                token_times=times,
            )
        )
    end = max(item.finish_s or 0.0 for item in records)
    return result(
        records,
        policy=style.policy,
        seed=seed,
        timeline=_timeline(style, end),
        counters={
            "swap_in_bytes": 400 * style.cold * GIB,
            "swap_out_bytes": 310 * style.cold * GIB,
            "prefetch_in_bytes": 20.0 * GIB,
            "prefetch_used_bytes": 15.0 * GIB,
            "preemptions": 0.0,
            "stall_s": 12.5 if style.policy == "vllm" else 0.0,
            "num_steps": 4000.0,
        },
        duration_s=end,
    )


def _timeline(style: Plausible, end_s: float) -> dict[str, list[float]]:
    samples = 20
    return {
        "time_s": [end_s * index / samples for index in range(samples)],
        "adapter_blocks": [300.0] * samples,
        "history_blocks": [2000.0] * samples,
        "running_blocks": [600.0] * samples,
        "in_flight_blocks": [10.0] * samples,
        "free_blocks": [210.0] * samples,
        "host_blocks": [9000.0] * samples,
        "invalid_blocks": [2000.0 * style.invalid] * samples,
        "adapters_in_hbm": [30.0] * samples,
        "waiting": [4.0] * samples,
        "running": [40.0] * samples,
    }


def hand_made_summary(policy: str, scale: float, *, seeds: int = 5, saturated: int = 0) -> PolicySummary:
    """A summary of round numbers: latencies grow with ``scale``, hit rates fall, every interval is 5 % wide."""
    falling = {
        "adapter_hit_rate": 0.9,
        "kv_hit_rate": 0.6,
        "slo_attainment": 0.95,
        "request_goodput": 4.7,
        "jain_index": 0.98,
    }
    flat = {"kv_host_hit_rate": 0.15, "hbm_util": 0.93, "request_throughput": 4.9, "output_throughput": 812.0}
    counts = {"completed": 9000.0, "rejected": 0.0, "aborted": 0.0, "unfinished": 0.0, "preemptions": 12.0}
    growing = {
        **{"mean_ttft_ms": 180.0, "median_ttft_ms": 150.0, "p95_ttft_ms": 420.0, "p99_ttft_ms": 777.0},
        **{"worst_adapter_mean_ttft_ms": 512.0, "mean_tpot_ms": 21.0, "p95_tpot_ms": 30.0, "p99_itl_ms": 41.0},
        **{"mean_e2el_ms": 4200.0, "p95_e2el_ms": 9100.0, "mean_queue_ms": 60.0, "mean_evict_wait_ms": 0.0},
        **{"mean_adapter_load_ms": 4.0, "mean_kv_load_ms": 1.0, "mean_prefill_ms": 115.0, "queue_growth": 0.001},
        **{"invalid_kv_ratio": 0.0, "swap_in_bytes": 48.0 * GIB, "swap_out_bytes": 31.0 * GIB, "stall_s": 0.0},
    }
    values = {
        **{name: value * scale for name, value in growing.items()},
        **{name: value / scale for name, value in falling.items()},
        **flat,
        "cold_request_ratio": min(0.1 * scale, 1.0),
        **counts,
    }
    metrics = {
        name: Estimate(value, value * 0.95, value * 1.05) if seeds > 1 else Estimate(value)
        for name, value in values.items()
    }
    return PolicySummary(
        policy=policy,
        caption=CAPTION,
        seeds=tuple(range(seeds)),
        metrics={**metrics, "prefetch_useful_ratio": Estimate(None)},
        saturated_seeds=tuple(range(saturated)),
    )


def hand_made_summaries(seeds: int = 5) -> list[PolicySummary]:
    """Six policies, worst first, the worst saturated in all seeds and vllm in two."""
    return [
        hand_made_summary("slora", 75.0, seeds=seeds, saturated=seeds),
        hand_made_summary("vllm", 2.0, seeds=seeds, saturated=min(2, seeds - 1)),
        hand_made_summary("vllm-offload", 1.7, seeds=seeds),
        hand_made_summary("order-only", 1.2, seeds=seeds),
        hand_made_summary("lru", 1.15, seeds=seeds),
        hand_made_summary("fastlibra", 1.0, seeds=seeds),
    ]
