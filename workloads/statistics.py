"""What a trace looks like: rates, burstiness, popularity, turns and lengths, for people who must decide to trust it."""

from dataclasses import dataclass

import numpy as np

from workloads.arrivals import FloatArray, IntArray
from workloads.columns import TraceColumns
from workloads.trace import Trace

DISPERSION_WINDOWS_S = (1, 10, 60)
TOP_ADAPTERS = (1, 5, 20)
PERCENTILES = (1, 10, 50, 90, 99)
MIN_WINDOWS = 5


@dataclass(frozen=True)
class Spread:
    """Mean, PERCENTILES (linear interpolation) and maximum of one quantity."""

    mean: float
    percentiles: tuple[float, ...]
    maximum: float


@dataclass(frozen=True)
class TraceStatistics:
    """One trace in numbers. Rates are per second; None stands for a figure the trace is too short to have.

    ``dispersion`` is variance / mean of the request counts of 1, 10 and 60 s windows (Poisson is 1);
    ``popularity_slope`` is the least-squares slope of log(requests) over log(rank) over the adapters in use, so about
    -1 for Zipf's law with exponent 1; ``top_shares`` are the shares of requests of the 1, 5 and 20 busiest adapters.
    ``new_tokens`` of a prompt are those that no earlier request of its adapter holds. Requests in flight assume
    ServiceTime; their mean is over the window and their peak is at an arrival.
    """

    num_requests: int
    num_sessions: int
    num_adapters: int
    adapters_used: int
    duration_s: float
    request_rate: float
    gap_cv: float | None
    dispersion: tuple[float | None, ...]
    popularity_slope: float | None
    top_shares: tuple[float, ...]
    mean_in_flight: float
    peak_in_flight: int
    turns: Spread
    prompt_tokens: Spread
    new_tokens: Spread
    output_tokens: Spread


@dataclass(frozen=True)
class Samples:
    """The quantities behind the figures, in arrays: times in seconds, lengths in tokens.

    ``requests_by_adapter`` is in descending order and holds adapters in use alone; ``turns`` has one entry per session.
    """

    arrival_s: FloatArray
    gaps_s: FloatArray
    requests_by_adapter: IntArray
    turns: IntArray
    prompt_tokens: IntArray
    new_tokens: IntArray
    output_tokens: IntArray


def samples_of(columns: TraceColumns, matched: IntArray) -> Samples:
    """The samples of a trace of which ``matched`` tokens of each prompt are held by earlier requests; those without a
    session count as sessions of one turn."""
    return Samples(
        arrival_s=columns.arrival_s,
        gaps_s=np.diff(columns.arrival_s),
        requests_by_adapter=np.sort(np.bincount(columns.adapter))[::-1],
        turns=np.bincount(columns.session),
        prompt_tokens=columns.prompt_tokens,
        new_tokens=columns.prompt_tokens - matched,
        output_tokens=columns.output_tokens,
    )


def statistics_of(trace: Trace, columns: TraceColumns, samples: Samples) -> TraceStatistics:
    """The figures of ``trace`` from its columns and samples."""
    duration_s = trace.header.duration_s
    return TraceStatistics(
        num_requests=columns.num_requests,
        num_sessions=len(samples.turns),
        num_adapters=len(trace.header.adapters),
        adapters_used=len(samples.requests_by_adapter),
        duration_s=duration_s,
        request_rate=trace.request_rate,
        gap_cv=gap_cv(samples.gaps_s),
        dispersion=tuple(dispersion(samples.arrival_s, duration_s, width) for width in DISPERSION_WINDOWS_S),
        popularity_slope=_slope(samples.requests_by_adapter),
        top_shares=tuple(float(samples.requests_by_adapter[:top].sum() / columns.num_requests) for top in TOP_ADAPTERS),
        mean_in_flight=float((np.minimum(columns.end_s, duration_s) - columns.arrival_s).clip(0).sum() / duration_s),
        peak_in_flight=_peak_in_flight(columns),
        turns=_spread(samples.turns),
        prompt_tokens=_spread(samples.prompt_tokens),
        new_tokens=_spread(samples.new_tokens),
        output_tokens=_spread(samples.output_tokens),
    )


def gap_cv(gaps_s: FloatArray) -> float | None:
    return float(gaps_s.std() / gaps_s.mean()) if len(gaps_s) > 1 and gaps_s.mean() > 0 else None


def dispersion(arrival_s: FloatArray, duration_s: float, width_s: int) -> float | None:
    whole_windows = int(duration_s // width_s)
    if whole_windows < MIN_WINDOWS:
        return None
    counts = np.bincount((arrival_s // width_s).astype(np.int64), minlength=whole_windows)[:whole_windows]
    return float(counts.var() / counts.mean()) if counts.any() else None


def _slope(by_adapter: IntArray) -> float | None:
    if len(by_adapter) < 3:
        return None
    ranks = np.log(np.arange(1, len(by_adapter) + 1))
    return float(np.polyfit(ranks, np.log(by_adapter), 1)[0])


def _peak_in_flight(columns: TraceColumns) -> int:
    ended = np.searchsorted(np.sort(columns.end_s), columns.arrival_s, side="right")
    return int((np.arange(1, columns.num_requests + 1) - ended).max())


def _spread(values: IntArray) -> Spread:
    return Spread(float(values.mean()), tuple(np.percentile(values, PERCENTILES).tolist()), float(values.max()))
