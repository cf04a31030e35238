"""What a trace looks like: rates, burstiness, popularity, turns and lengths, for people who must decide to trust it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workloads.arrivals import FloatArray
from workloads.garbage import collection_paused
from workloads.trace import Trace

DISPERSION_WINDOWS_S = (1, 10, 60)
TOP_ADAPTERS = (1, 5, 20)
PERCENTILES = (1, 25, 50, 75, 99)
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
    ``popularity_slope`` is the slope of log(requests) over log(rank), so -1 for Zipf's law with exponent 1;
    ``top_shares`` are the shares of requests of the 1, 5 and 20 busiest adapters.
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
    turns: Spread
    prompt_tokens: Spread
    output_tokens: Spread


@collection_paused()
def trace_statistics(trace: Trace) -> TraceStatistics:
    """Statistics of ``trace``; requests without a session count as sessions of one turn."""
    requests = trace.requests
    arrivals = np.array([request.arrival_s for request in requests])
    sessions = Counter(request.session if request.session is not None else request.id for request in requests)
    by_adapter = np.array(sorted(Counter(request.adapter for request in requests).values(), reverse=True))
    return TraceStatistics(
        num_requests=len(requests),
        num_sessions=len(sessions),
        num_adapters=len(trace.header.adapters),
        adapters_used=len(by_adapter),
        duration_s=trace.header.duration_s,
        request_rate=trace.request_rate,
        gap_cv=_gap_cv(arrivals),
        dispersion=tuple(_dispersion(arrivals, trace.header.duration_s, width) for width in DISPERSION_WINDOWS_S),
        popularity_slope=_slope(by_adapter),
        top_shares=tuple(float(by_adapter[:top].sum() / len(requests)) for top in TOP_ADAPTERS),
        turns=_spread(list(sessions.values())),
        prompt_tokens=_spread([request.num_prompt_tokens for request in requests]),
        output_tokens=_spread([request.output_tokens for request in requests]),
    )


def _gap_cv(arrivals: FloatArray) -> float | None:
    gaps = np.diff(arrivals)
    return float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.mean() > 0 else None


def _dispersion(arrivals: FloatArray, duration_s: float, width_s: int) -> float | None:
    whole_windows = int(duration_s // width_s)
    if whole_windows < MIN_WINDOWS:
        return None
    counts = np.bincount((arrivals // width_s).astype(np.int64), minlength=whole_windows)[:whole_windows]
    return float(counts.var() / counts.mean()) if counts.any() else None


def _slope(by_adapter: FloatArray) -> float | None:
    if len(by_adapter) < 3:
        return None
    ranks = np.log(np.arange(1, len(by_adapter) + 1))
    return float(np.polyfit(ranks, np.log(by_adapter), 1)[0])


def _spread(values: Sequence[int]) -> Spread:
    data = np.array(values)
    return Spread(float(data.mean()), tuple(np.percentile(data, PERCENTILES).tolist()), float(data.max()))
