"""Which figures the comparison table shows, in which order and unit, and which way is better."""

from dataclasses import dataclass
from enum import Enum

from bench.metrics import PolicySummary
from bench.statistics import Estimate

_GIB = 1 / (1 << 30)
_PERCENT = 100.0


class Better(Enum):
    """Which end of a row is marked as the best; NEITHER marks none."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


@dataclass(frozen=True)
class Row:
    """One metric as a row. ``scale`` turns the metric's unit into the row's.

    ``headline`` rows carry their interval even where the table has no room for every interval; rows that are not
    ``essential`` are left out of narrow tables; ``hide_zero`` rows are left out when they are 0 for every policy.
    """

    metric: str
    label: str
    unit: str
    better: Better = Better.LOWER
    scale: float = 1.0
    headline: bool = False
    essential: bool = True
    hide_zero: bool = False
    is_count: bool = False

    def estimate(self, summary: PolicySummary) -> Estimate:
        """The figure in the row's unit; an estimate of None where the policy has none."""
        figure = summary.metrics.get(self.metric, Estimate(None))
        bounds = (figure.mean, figure.low, figure.high)
        return Estimate(*(None if bound is None else bound * self.scale for bound in bounds))


@dataclass(frozen=True)
class Group:
    """Rows under one heading."""

    title: str
    rows: tuple[Row, ...]


def _rate(metric: str, label: str, better: Better = Better.HIGHER) -> Row:
    return Row(metric, label, "%", better, scale=_PERCENT)


GROUPS = (
    Group(
        "Latency",
        (
            Row("mean_ttft_ms", "TTFT mean", "ms", headline=True),
            Row("median_ttft_ms", "TTFT median", "ms"),
            Row("p95_ttft_ms", "TTFT p95", "ms"),
            Row("p99_ttft_ms", "TTFT p99", "ms"),
            Row("worst_adapter_mean_ttft_ms", "worst adapter", "ms"),
            Row("mean_tpot_ms", "TPOT mean", "ms", headline=True),
            Row("p95_tpot_ms", "TPOT p95", "ms", essential=False),
            Row("p99_itl_ms", "ITL p99", "ms"),
            Row("mean_e2el_ms", "E2E mean", "ms", headline=True),
            Row("p95_e2el_ms", "E2E p95", "ms", essential=False),
            Row("mean_task_ms", "task mean", "ms"),
            Row("p95_task_ms", "task p95", "ms"),
        ),
    ),
    Group(
        "Mean TTFT in parts",
        (
            Row("mean_queue_ms", "queue", "ms"),
            Row("mean_evict_wait_ms", "  evict wait", "ms", hide_zero=True),
            Row("mean_adapter_load_ms", "adapter load", "ms"),
            Row("mean_kv_load_ms", "KV load", "ms"),
            Row("mean_prefill_ms", "prefill", "ms"),
        ),
    ),
    Group(
        "Throughput",
        (
            Row("request_throughput", "requests", "req/s", Better.HIGHER),
            Row("output_throughput", "output", "tok/s", Better.HIGHER),
            Row("request_goodput", "goodput", "req/s", Better.HIGHER),
            _rate("slo_attainment", "SLO attainment"),
        ),
    ),
    Group(
        "Cache",
        (
            _rate("adapter_hit_rate", "adapter hits"),
            _rate("kv_hit_rate", "KV hits in HBM"),
            _rate("kv_host_hit_rate", "KV hits in host", Better.NEITHER),
            _rate("cold_request_ratio", "cold requests", Better.LOWER),
            _rate("invalid_kv_ratio", "invalid KV", Better.LOWER),
            _rate("hbm_util", "HBM used", Better.NEITHER),
        ),
    ),
    Group(
        "Traffic",
        (
            Row("swap_in_bytes", "swap in", "GiB", Better.NEITHER, _GIB),
            Row("swap_out_bytes", "swap out", "GiB", Better.NEITHER, _GIB),
            Row("prefetch_useful_ratio", "prefetch used", "%", Better.NEITHER, _PERCENT),
            Row("miss_bytes", "missed", "GiB", scale=_GIB),
            Row("miss_bound_bytes", "  bound", "GiB", Better.NEITHER, _GIB),
            Row("miss_over_bound", "  missed / bound", "x", essential=False),
            Row("stall_s", "stalled", "s", hide_zero=True),
        ),
    ),
    Group(
        "Run",
        (
            Row("completed", "finished", "req", Better.NEITHER, is_count=True),
            Row("rejected", "rejected", "req", hide_zero=True, is_count=True),
            Row("aborted", "aborted", "req", hide_zero=True, is_count=True),
            Row("cancelled", "cancelled", "req", hide_zero=True, is_count=True),
            Row("unfinished", "unfinished", "req", hide_zero=True, is_count=True),
            Row("preemptions", "preemptions", "", hide_zero=True, is_count=True),
            Row("jain_index", "fairness (Jain)", "", Better.HIGHER),
            Row("queue_growth", "queue growth", "%", Better.NEITHER, _PERCENT, essential=False),
        ),
    ),
)
