"""Ratios of two policies on equal requests, over cases and seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.reproduce.cells import Case
from bench.reproduce.store import Result
from bench.reproduce.study import Study
from bench.statistics import Estimate, estimate

Setting = tuple[Case, float]
PARTS = ("queue", "adapter_load", "kv_load", "prefill")
PART_NAMES = {"queue": "queue", "adapter_load": "adapter", "kv_load": "KV", "prefill": "prefill"}


@dataclass(frozen=True)
class Pairs:
    """Runs of two policies on equal requests: one pair of lists (by seed) per setting, ``stable`` where neither policy
    is saturated in any seed, and ``saturated`` where one is. ``num_missing`` settings have no result for both."""

    stable: list[tuple[list[Result], list[Result]]]
    saturated: list[tuple[list[Result], list[Result]]]
    num_missing: int

    @property
    def num_settings(self) -> int:
        return len(self.stable) + len(self.saturated)


def pair(study: Study, settings: Sequence[Setting], policy: str, baseline: str) -> Pairs:
    """The results of both policies, where both have them."""
    pairs = Pairs([], [], 0)
    num_missing = 0
    for case, load in settings:
        ours, theirs = study.results(case, policy, load), study.results(case, baseline, load)
        if not ours or not theirs:
            num_missing += 1
        elif any(result["saturated"] for result in (*ours, *theirs)):
            pairs.saturated.append((ours, theirs))
        else:
            pairs.stable.append((ours, theirs))
    return Pairs(pairs.stable, pairs.saturated, num_missing)


def mean_ratio(pairs: Sequence[tuple[list[Result], list[Result]]], metric: str) -> Estimate:
    """Geometric mean over settings of first / second, with the 95 % interval over seeds of its logarithm.

    A setting in which a seed lacks the metric, or has it at 0, is left out.
    """
    figure = estimate(mean_log_ratios(pairs, metric))
    return Estimate(*(None if end is None else math.exp(end) for end in (figure.mean, figure.low, figure.high)))


def mean_log_ratios(pairs: Sequence[tuple[list[Result], list[Result]]], metric: str) -> list[float]:
    """By seed, the mean over settings of log(first / second); settings without it are left out as in ``mean_ratio``."""
    by_setting = [logs for ours, theirs in pairs if (logs := _log_ratios(ours, theirs, metric))]
    return [math.fsum(column) / len(column) for column in zip(*by_setting, strict=True)]


def as_change(ratio: Estimate) -> Estimate:
    """A ratio as a change in per cent."""
    return Estimate(*(None if end is None else 100 * (end - 1) for end in (ratio.mean, ratio.low, ratio.high)))


def mean_level(settings: Sequence[list[Result]], metric: str, scale: float = 1.0) -> Estimate:
    """Mean over settings of a metric, with the interval over seeds."""
    by_setting = [[scale * result[metric] for result in results] for results in settings if _has(results, metric)]
    return estimate([math.fsum(column) / len(column) for column in zip(*by_setting, strict=True)])


def ratio_of_lists(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Geometric mean of paired ratios, with the interval over the pairs."""
    figure = estimate([math.log(a / b) for a, b in zip(ours, theirs, strict=True)])
    return Estimate(*(None if end is None else math.exp(end) for end in (figure.mean, figure.low, figure.high)))


def breakdown(pairs: Sequence[tuple[list[Result], list[Result]]], names: tuple[str, str]) -> str:
    """Where the difference in TTFT comes from, in ms: the parts of both, the part that differs most, and how many
    requests a load has held up at all."""
    if not pairs:
        return ""
    sides = [[side[which] for side in pairs] for which in (0, 1)]
    parts = {part: [mean_level(side, f"mean_{part}_ms").mean or 0.0 for side in sides] for part in PARTS}
    texts = [f"{PART_NAMES[part]} {first:.3g} and {second:.3g}" for part, (first, second) in parts.items()]
    widest = max(parts, key=lambda part: abs(parts[part][0] - parts[part][1]))
    why = ""
    if widest == "prefill":
        computed = [mean_level(side, "computed_prompt_share").mean or 0.0 for side in sides]
        why = f", with {computed[0]:.0%} and {computed[1]:.0%} of the prompts computed"
    cold = [mean_level(side, "cold_request_ratio").mean or 0.0 for side in sides]
    return (
        f"ms for {names[0]} and {names[1]}: {', '.join(texts)}; {PART_NAMES[widest]} differs most{why}; "
        f"{cold[0]:.0%} and {cold[1]:.0%} of the requests waited for a load"
    )


def pace(pairs: Sequence[tuple[list[Result], list[Result]]], names: tuple[str, str]) -> str:
    """What slows decoding down: prompts computed in the same steps, loads that block them, and preemptions."""
    sides = [[side[which] for side in pairs] for which in (0, 1)]
    computed, stalled, preempted = (
        [mean_level(side, metric).mean or 0.0 for side in sides]
        for metric in ("computed_prompt_share", "stall_s", "preemptions")
    )
    return (
        f"{names[0]} and {names[1]} compute {computed[0]:.0%} and {computed[1]:.0%} of the prompts, stall "
        f"{stalled[0]:.2g} and {stalled[1]:.2g} s, preempt {preempted[0]:.3g} and {preempted[1]:.3g} times"
    )


def _log_ratios(ours: list[Result], theirs: list[Result], metric: str) -> list[float]:
    if not (_has(ours, metric) and _has(theirs, metric)):
        return []
    values = [(a[metric], b[metric]) for a, b in zip(ours, theirs, strict=True)]
    return [math.log(a / b) for a, b in values] if all(a > 0 and b > 0 for a, b in values) else []


def _has(results: list[Result], metric: str) -> bool:
    return bool(results) and all(result[metric] is not None for result in results)
