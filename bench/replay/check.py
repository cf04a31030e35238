"""Did the generator do what it was asked to? Arrivals, lengths and usage, each checked against the request."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.replay.observation import Observation
from bench.statistics import FloatArray
from workloads.statistics import dispersion, gap_cv

DISPERSION_WINDOW_S = 1


@dataclass(frozen=True)
class ArrivalPattern:
    """Rate in requests per second from the first to the last, coefficient of variation of the gaps, and index of
    dispersion of the counts of 1 s windows (Poisson: 1 and 1). None where there is too little to tell."""

    rate: float | None
    cv: float | None
    dispersion: float | None


@dataclass(frozen=True)
class ArrivalCheck:
    """The arrivals asked for beside those sent, and how late the generator was, in ms (percentiles: linear).

    ``send_lag`` is the generator's own delay, ``slot_wait`` what --max-concurrency added.
    """

    asked: ArrivalPattern
    sent: ArrivalPattern
    mean_send_lag_ms: float | None
    p99_send_lag_ms: float | None
    max_send_lag_ms: float | None
    mean_slot_wait_ms: float | None
    p99_slot_wait_ms: float | None


def check_arrivals(observations: Sequence[Observation]) -> ArrivalCheck:
    """Compares scheduled with actual send times of every request that was sent."""
    sent = [seen for seen in observations if seen.first_sent_s is not None]
    asked_s = np.sort(np.array([seen.record.arrival_s for seen in sent]))
    sent_s = np.sort(np.array([seen.first_sent_s for seen in sent], dtype=float))
    lag_ms = np.array([seen.send_lag_s for seen in sent], dtype=float) * 1e3
    wait_ms = np.array([seen.slot_wait_s for seen in sent]) * 1e3
    return ArrivalCheck(
        _pattern(asked_s),
        _pattern(sent_s),
        _mean(lag_ms),
        _percentile(lag_ms, 99),
        _percentile(lag_ms, 100),
        _mean(wait_ms),
        _percentile(wait_ms, 99),
    )


def _pattern(times_s: FloatArray) -> ArrivalPattern:
    if times_s.size < 2 or times_s[0] == times_s[-1]:
        return ArrivalPattern(None, None, None)
    span_s = float(times_s[-1] - times_s[0])
    rate = (times_s.size - 1) / span_s
    return ArrivalPattern(rate, gap_cv(np.diff(times_s)), dispersion(times_s - times_s[0], span_s, DISPERSION_WINDOW_S))


def _mean(values: FloatArray) -> float | None:
    return float(values.mean()) if values.size else None


def _percentile(values: FloatArray, percent: int) -> float | None:
    return float(np.percentile(values, percent)) if values.size else None


@dataclass(frozen=True)
class UsageCheck:
    """How many finished requests have a usage that is missing, or that contradicts what was sent and streamed.

    ``uncounted``: nor did the server send token ids, so that nobody knows how many tokens there were; ``wrong_prompt``:
    prompt tokens are not those sent (only where token ids were sent); ``wrong_completion``: not those streamed, or
    fewer than events with text; ``wrong_length``: not as many as asked for; ``bundled``: fewer events than tokens, so
    that gaps between events are not gaps between tokens.
    """

    checked: int
    missing: int
    uncounted: int
    wrong_prompt: int
    wrong_completion: int
    wrong_length: int
    bundled: int
    prompt_tokens_ratio: float | None

    @property
    def contradictions(self) -> int:
        return self.wrong_prompt + self.wrong_completion


def check_usage(observations: Sequence[Observation], *, exact_prompt: bool, asked_prompt_tokens: int) -> UsageCheck:
    """Holds the server's usage against the generator's own counts. ``asked_prompt_tokens``: the trace's, all told."""
    finished = [seen for seen in observations if seen.finished]
    told = [seen for seen in finished if seen.told_completion_tokens is not None]
    counted = [seen for seen in finished if seen.told_completion_tokens is not None or seen.has_token_ids]
    told_prompt = sum(seen.told_prompt_tokens or 0 for seen in told)
    return UsageCheck(
        checked=len(told),
        missing=len(finished) - len(told),
        uncounted=len(finished) - len(counted),
        wrong_prompt=sum(exact_prompt and seen.told_prompt_tokens != seen.record.prompt_tokens for seen in told),
        wrong_completion=sum(_contradicts(seen) for seen in told),
        wrong_length=sum(seen.record.output_tokens != seen.asked_output_tokens for seen in counted),
        bundled=sum(len(seen.record.token_times) < seen.record.output_tokens for seen in finished),
        prompt_tokens_ratio=told_prompt / asked_prompt_tokens if told and asked_prompt_tokens else None,
    )


def _contradicts(seen: Observation) -> bool:
    """Whether the server counts other tokens than it streamed; an event with text and no ids is one or more."""
    assert seen.told_completion_tokens is not None
    if seen.has_token_ids:
        return seen.told_completion_tokens != seen.streamed_tokens
    return seen.told_completion_tokens < seen.streamed_tokens - seen.silent_events


def count_failures(observations: Sequence[Observation]) -> dict[str, int]:
    """Kind of the last attempt's fault -> requests that ended with it; cancelled ones under ``cancelled``."""
    counts: Counter[str] = Counter()
    for seen in observations:
        if seen.record.status == "cancelled":
            counts["cancelled"] += 1
        elif seen.record.status in ("rejected", "aborted"):
            counts[seen.faults[-1]] += 1
    return dict(counts.most_common())


def count_retries(observations: Sequence[Observation]) -> dict[str, int]:
    """Kind of fault -> attempts that failed with it and were made again."""
    counts: Counter[str] = Counter()
    for seen in observations:
        counts.update(seen.faults[: seen.attempts - 1])
    return dict(counts.most_common())
