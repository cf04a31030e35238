"""Two runs over the same requests: what differs, and whether by more than chance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.bootstrap import Clusters, WeightedSample, bootstrap_differences, cluster_requests
from bench.compare_options import CompareOptions
from bench.pairing import pair_requests
from bench.saved_run import SavedRun

if TYPE_CHECKING:
    import pandas as pd

LATENCIES = ("ttft_ms", "tpot_ms", "e2el_ms")
STATISTICS = ("mean", "median", "p95")
_QUANTILES = (0.5, 0.95)


@dataclass(frozen=True)
class Difference:
    """One latency statistic in ms: run A, run B, B - A and its 95 % interval (None with a single session)."""

    metric: str
    a: float
    b: float
    low: float | None
    high: float | None

    @property
    def difference(self) -> float:
        return self.b - self.a

    @property
    def percent(self) -> float | None:
        return 100 * self.difference / self.a if self.a else None

    @property
    def significant(self) -> bool:
        """The interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def verdict(self) -> str:
        """faster or slower when B differs from A by more than chance, else same."""
        if not self.significant:
            return "same"
        return "faster" if self.difference < 0 else "slower"


@dataclass(frozen=True)
class PolicyComparison:
    """Policy ``a`` of run A against policy ``b`` of run B over the requests that finished in both.

    ``only_a`` and ``only_b`` count requests that finished in one run alone: they are in no figure. ``unlike_prompts``
    and ``unlike_answers`` count pairs of unequal length: they are.
    """

    policy_a: str
    policy_b: str
    num_pairs: int
    num_clusters: int
    seeds: tuple[int, ...]
    only_a: int
    only_b: int
    unlike_prompts: int
    unlike_answers: int
    saturated_a: bool
    saturated_b: bool
    differences: tuple[Difference, ...]


def compare_policies(
    run_a: SavedRun, policy_a: str, run_b: SavedRun, policy_b: str, options: CompareOptions = CompareOptions()
) -> PolicyComparison:
    """Compares one policy of run A with one of run B, request by request.

    Raises LibraError when the runs cannot be paired (see ``pair_requests``).
    """
    paired = pair_requests(run_a, policy_a, run_b, policy_b, allow_different=options.allow_different)
    rows = paired.rows
    clusters = cluster_requests(rows["seed"].tolist(), rows["session_a"].tolist(), rows["id"].tolist())
    return PolicyComparison(
        policy_a=policy_a,
        policy_b=policy_b,
        num_pairs=len(rows),
        num_clusters=clusters.count,
        seeds=tuple(sorted(set(rows["seed"].tolist()))),
        only_a=paired.only_a,
        only_b=paired.only_b,
        unlike_prompts=paired.unlike_prompts,
        unlike_answers=paired.unlike_answers,
        saturated_a=bool(run_a.summary["policies"][policy_a]["saturated"]),
        saturated_b=bool(run_b.summary["policies"][policy_b]["saturated"]),
        differences=tuple(_differences(rows, clusters, options)),
    )


def _differences(rows: "pd.DataFrame", clusters: Clusters, options: CompareOptions) -> list[Difference]:
    """Mean, median and p95 of each latency over the pairs in which both requests have it."""
    samples = {}
    for latency in LATENCIES:
        values_a, values_b = (rows[f"{latency}_{run}"].to_numpy(dtype=float) for run in "ab")
        present = ~(np.isnan(values_a) | np.isnan(values_b))
        if present.any():
            members = clusters.of_request[present]
            samples[latency] = (
                WeightedSample(values_a[present], members, clusters.count),
                WeightedSample(values_b[present], members, clusters.count),
            )
    intervals = bootstrap_differences(list(samples.values()), clusters, _QUANTILES, options.resamples, options.seed)
    once = np.ones(clusters.count, dtype=np.int64)
    differences = []
    for row, (latency, (sample_a, sample_b)) in enumerate(samples.items()):
        figures = zip(
            STATISTICS, sample_a.summarise(once, _QUANTILES), sample_b.summarise(once, _QUANTILES), strict=True
        )
        for column, (statistic, a, b) in enumerate(figures):
            # One session drawn again and again has no spread: no interval is the honest answer.
            low, high = map(float, intervals[row, column]) if sample_a.num_clusters > 1 else (None, None)
            differences.append(Difference(f"{statistic}_{latency}", a, b, low, high))
    return differences
