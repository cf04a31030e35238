"""From run results to the figures people compare. docs/metrics.md defines each from timestamps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.columns import BASE_MODEL, RequestColumns
from bench.saturation import SaturationRule, judge_saturation
from bench.slo import Objectives
from bench.statistics import Estimate, FloatArray, distribution, estimate, jain_index, ratio
from bench.tasks import task_metrics
from libra.engine.record import RequestRecord, RunResult

TTFT_PARTS = ("queue", "evict_wait", "adapter_load", "kv_load", "prefill")
STATUSES = ("rejected", "aborted", "cancelled", "unfinished")
COUNTERS = ("swap_in_bytes", "swap_out_bytes", "preemptions", "stall_s", "num_steps")

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class MeasureOptions:
    """``warmup_s``: requests that arrive earlier count nowhere. ``objectives``: what goodput and attainment ask for.

    ``unknown`` are metrics that the source of the records tells nothing about: they are None, not zero.
    """

    warmup_s: float = 0.0
    objectives: Objectives = field(default_factory=Objectives)
    saturation: SaturationRule = field(default_factory=SaturationRule)
    unknown: frozenset[str] = frozenset()


class RunMeasurement(NamedTuple):
    """One run: all metrics, per adapter those that single requests have, and whether the run is saturated."""

    metrics: Metrics
    per_adapter: dict[str, Metrics]
    saturated: bool


@dataclass(frozen=True)
class PolicySummary:
    """One policy over its seeds. All mappings go from the names of docs/metrics.md to figures.

    ``per_adapter`` holds, for each adapter, the metrics that single requests have. ``complete`` is False when a run was
    cut short; ``worst_adapter`` is the one with the highest mean TTFT over all seeds, or that finished nothing.
    """

    policy: str
    caption: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Estimate]
    per_seed: Mapping[int, Metrics] = field(default_factory=dict)
    per_adapter: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    saturated_seeds: tuple[int, ...] = ()
    worst_adapter: str | None = None
    complete: bool = True

    @property
    def saturated(self) -> bool:
        """One saturated seed is enough: its TTFT grows with the run's length and so does the mean."""
        return bool(self.saturated_seeds)

    @property
    def starved_adapters(self) -> list[str]:
        """Adapters whose requests have arrived and none of which has finished, in any seed."""
        means = _adapter_means(self.per_adapter)
        return [name for name, mean in means.items() if mean is None]

    def mean(self, metric: str) -> float | None:
        """The mean over seeds; None where no seed has the metric."""
        return self.metrics[metric].mean if metric in self.metrics else None


def summarise(results: Sequence[RunResult], options: MeasureOptions = MeasureOptions()) -> PolicySummary:
    """Measures the runs of one policy, one per seed, and takes mean and 95 % interval over the seeds.

    Raises ValueError without results, with two policies among them, or with a seed twice.
    """
    policies, seeds = {result.policy for result in results}, tuple(result.seed for result in results)
    if len(policies) != 1 or len(set(seeds)) != len(seeds):
        raise ValueError(f"one policy with distinct seeds is needed, not {sorted(policies)} with seeds {seeds}")
    runs = [measure(result, options) for result in results]
    per_adapter = _estimate_adapters([run.per_adapter for run in runs])
    return PolicySummary(
        policy=results[0].policy,
        caption=results[0].caption,
        seeds=seeds,
        metrics=_estimate_all([run.metrics for run in runs]),
        per_seed={seed: run.metrics for seed, run in zip(seeds, runs, strict=True)},
        per_adapter=per_adapter,
        saturated_seeds=tuple(seed for seed, run in zip(seeds, runs, strict=True) if run.saturated),
        worst_adapter=worst_adapter(_adapter_means(per_adapter)),
        complete=all(result.complete for result in results),
    )


def measure(result: RunResult, options: MeasureOptions = MeasureOptions()) -> RunMeasurement:
    """All figures of one run."""
    arrived = _arrived(result, options.warmup_s)
    window_s = max(result.duration_s - options.warmup_s, 0.0)
    columns = RequestColumns(arrived)
    adapters = {
        name: _request_metrics(group, window_s, options.objectives) for name, group in columns.by_adapter().items()
    }
    saturation = judge_saturation(arrived, result.duration_s, options.saturation)
    metrics = _request_metrics(columns, window_s, options.objectives)
    metrics |= _memory_metrics(result, options.warmup_s)
    metrics |= _fairness_metrics(adapters)
    metrics |= task_metrics(result, options.warmup_s)
    metrics |= {"duration": result.duration_s, "queue_growth": saturation.queue_growth}
    for figures in (metrics, *adapters.values()):
        figures |= dict.fromkeys(options.unknown & figures.keys())
    return RunMeasurement(metrics, adapters, saturation.saturated)


def worst_adapter(mean_ttft_ms: Mapping[str, float | None]) -> str | None:
    """The adapter with the highest mean TTFT, where None is that of one that finished nothing and is above all others;
    the first by name among equals; None without adapters."""
    means = {name: math.inf if ttft is None else ttft for name, ttft in mean_ttft_ms.items()}
    return min(means, key=lambda name: (-means[name], name), default=None)


def _adapter_means(per_adapter: Mapping[str, Mapping[str, Estimate]]) -> dict[str, float | None]:
    """Adapter -> mean TTFT; the base model is none."""
    return {name: figures["mean_ttft_ms"].mean for name, figures in per_adapter.items() if name != BASE_MODEL}


def _arrived(result: RunResult, warmup_s: float) -> list[RequestRecord]:
    """The requests that count: not those of the warm-up, nor those an interrupted run never reached."""
    last_s = np.inf if result.complete else result.duration_s
    return [record for record in result.records if warmup_s <= record.arrival_s <= last_s]


def _request_metrics(columns: RequestColumns, window_s: float, objectives: Objectives) -> Metrics:
    finished = columns.with_status("finished")
    prompt_tokens, output_tokens = float(finished.prompt_tokens.sum()), float(finished.output_tokens.sum())
    adapter_tiers = [record.adapter_tier for record in finished.records if record.adapter is not None]
    tpot_ms = finished.tpot_ms
    metrics: Metrics = {"num_prompts": len(columns), "completed": len(finished)}
    metrics |= {status: len(columns.with_status(status)) for status in STATUSES}
    metrics |= {"total_input_tokens": prompt_tokens, "total_output_tokens": output_tokens}
    metrics |= distribution("ttft_ms", finished.ttft_ms)
    metrics |= distribution("tpot_ms", tpot_ms[~np.isnan(tpot_ms)])
    metrics |= distribution("itl_ms", finished.token_gaps_ms())
    metrics |= distribution("tpt_ms", finished.tpt_ms)
    metrics |= distribution("e2el_ms", finished.e2el_ms)
    metrics |= {f"mean_{part}_ms": _mean(finished.part_ms(part)) for part in TTFT_PARTS}
    metrics |= {
        "request_throughput": ratio(len(finished), window_s),
        "output_throughput": ratio(output_tokens, window_s),
        "total_token_throughput": ratio(prompt_tokens + output_tokens, window_s),
        "adapter_hit_rate": ratio(adapter_tiers.count("hbm"), len(adapter_tiers)),
        "kv_hit_rate": ratio(float(finished.hbm_hit_tokens.sum()), prompt_tokens),
        "kv_host_hit_rate": ratio(float(finished.host_hit_tokens.sum()), prompt_tokens),
        "cold_request_ratio": ratio(int(finished.is_cold.sum()), len(finished)),
    }
    return metrics | _goodput(columns, finished, window_s, objectives)


def _goodput(columns: RequestColumns, finished: RequestColumns, window_s: float, objectives: Objectives) -> Metrics:
    """Attainment is over all requests that arrived: one refused or never finished has missed its objectives."""
    if not objectives:
        return {"request_goodput": None, "slo_attainment": None}
    latencies = {
        "ttft": finished.ttft_ms,
        "tpot": finished.tpot_ms,
        "tpt": finished.tpt_ms,
        "e2el": finished.e2el_ms,
    }
    good = meets(objectives, latencies)
    return {
        "request_goodput": ratio(int(good.sum()), window_s),
        "slo_attainment": ratio(int(good.sum()), len(columns)),
    }


def meets(objectives: Objectives, latencies_ms: Mapping[str, FloatArray]) -> NDArray[np.bool_]:
    """Which requests meet every objective; ``latencies_ms`` has an array for each of ttft, tpot, tpt and e2el."""
    good = np.ones(len(latencies_ms["ttft"]), dtype=np.bool_)
    for name, limit in objectives.limits().items():
        if limit is not None:
            # A request of one output token has no TPOT (NaN) and so cannot miss it.
            good &= ~(latencies_ms[name] > limit)
    return good


def _memory_metrics(result: RunResult, warmup_s: float) -> Metrics:
    """Time averages over the timeline after the warm-up, and the counters of the whole run."""
    samples = {name: np.asarray(values, dtype=float) for name, values in result.timeline.items()}
    spans_s = _sample_spans(samples.get("time_s", np.empty(0)), warmup_s, result.duration_s)

    def block_seconds(name: str) -> float:
        return float((samples[name] * spans_s).sum()) if name in samples else 0.0

    used = sum(block_seconds(f"{use}_blocks") for use in ("adapter", "history", "running", "in_flight"))
    prefetched = result.counters.get("prefetch_in_bytes", 0.0)
    metrics: Metrics = {name: float(result.counters.get(name, 0.0)) for name in COUNTERS}
    metrics |= _miss_metrics(result.counters)
    return metrics | {
        "hbm_util": ratio(used, used + block_seconds("free_blocks")),
        "invalid_kv_ratio": ratio(block_seconds("invalid_blocks"), block_seconds("history_blocks")),
        "prefetch_useful_ratio": ratio(result.counters.get("prefetch_used_bytes", 0.0), prefetched),
    }


def _miss_metrics(counters: Mapping[str, float]) -> Metrics:
    """Bytes moved into HBM or computed for want of a copy, beside the least that were possible (docs/bounds.md); None
    where the source of the records counts no recomputed blocks, or nobody computed the bound."""
    if "recomputed_bytes" not in counters:
        return dict.fromkeys(("miss_bytes", "miss_bound_bytes", "compulsory_bytes", "miss_over_bound"))
    prefetched, used = counters["prefetch_in_bytes"], counters["prefetch_used_bytes"]
    missed = float(counters["swap_in_bytes"] - prefetched + used + counters["recomputed_bytes"])
    bound, compulsory = counters.get("miss_bound_bytes"), counters.get("compulsory_bytes")
    return {
        "miss_bytes": missed,
        "miss_bound_bytes": bound,
        "compulsory_bytes": compulsory,
        "miss_over_bound": None if bound is None else ratio(missed, bound),
    }


def _sample_spans(time_s: FloatArray, start_s: float, end_s: float) -> FloatArray:
    """How long each sample holds, in seconds between ``start_s`` and ``end_s``: until the next sample or the end."""
    ends = np.append(time_s[1:], max(end_s, time_s[-1])) if time_s.size else time_s
    return np.maximum(ends - np.maximum(time_s, start_s), 0.0)


def _fairness_metrics(adapters: Mapping[str, Metrics]) -> Metrics:
    """Over the adapters that finished anything: to the base model no adapter is loaded, and nothing is no latency."""
    means = [figures["mean_ttft_ms"] for name, figures in adapters.items() if name != BASE_MODEL]
    served = [ttft for ttft in means if ttft is not None]
    return {"worst_adapter_mean_ttft_ms": max(served, default=None), "jain_index": jain_index(served)}


def _mean(values: FloatArray) -> float | None:
    return float(values.mean()) if values.size else None


def _estimate_all(samples: Sequence[Metrics]) -> dict[str, Estimate]:
    return {name: estimate(sample[name] for sample in samples) for name in samples[0]}


def _estimate_adapters(samples: Sequence[dict[str, Metrics]]) -> dict[str, dict[str, Estimate]]:
    """An adapter that a seed never drew has no figures in that seed, and the mean is over the seeds that have it."""
    names = sorted({name for sample in samples for name in sample})
    return {name: _estimate_all([sample[name] for sample in samples if name in sample]) for name in names}
