"""Is the queue still growing at the end? The rule that calls a run saturated."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.statistics import FloatArray
from libra.engine.record import RequestRecord


@dataclass(frozen=True)
class SaturationRule:
    """A run is saturated when its backlog keeps growing and more than ``growth_limit`` of the arrivals pile up.

    The backlog is the number of requests that have arrived and have no first token yet. Its time average is taken over
    quarters of the arrival window (first to last arrival: the drain after it says nothing). The growth from the second
    to the fourth quarter, over the arrivals between the middles of the two, is the share of the load the system does
    not keep up with. ``least_requests`` keeps a burst in a short run from counting as growth.
    """

    growth_limit: float = 0.05
    least_requests: float = 2.0


@dataclass(frozen=True)
class Saturation:
    """``queue_growth``: the share of arrivals that piled up; negative when the queue shrank."""

    queue_growth: float
    saturated: bool


def judge_saturation(
    records: list[RequestRecord], duration_s: float, rule: SaturationRule = SaturationRule()
) -> Saturation:
    """Judges one run by the requests that arrived. Rejected and cancelled ones never wait; unfinished ones
    wait to ``duration_s``."""
    waiting = [record for record in records if record.status not in ("rejected", "cancelled")]
    arrivals = np.array([record.arrival_s for record in waiting])
    if arrivals.size < 2 or arrivals.min() == arrivals.max():
        return Saturation(0.0, saturated=False)
    first_tokens = np.array([_end_of_wait(record, duration_s) for record in waiting])
    edges = np.linspace(arrivals.min(), arrivals.max(), 5)
    quarters = [_mean_backlog(arrivals, first_tokens, start, end) for start, end in pairwise(edges)]
    middles = (edges[1] + edges[2]) / 2, (edges[3] + edges[4]) / 2
    between = int(((arrivals >= middles[0]) & (arrivals < middles[1])).sum())
    grown = quarters[3] - quarters[1]
    growth = grown / between if between else 0.0
    saturated = quarters[1] < quarters[2] < quarters[3] and grown > rule.least_requests and growth > rule.growth_limit
    return Saturation(float(growth), bool(saturated))


def _end_of_wait(record: RequestRecord, duration_s: float) -> float:
    if record.first_token_s is not None:
        return record.first_token_s
    return duration_s if record.finish_s is None else record.finish_s


def _mean_backlog(arrivals: FloatArray, first_tokens: FloatArray, start: float, end: float) -> float:
    waits = np.minimum(first_tokens, end) - np.maximum(arrivals, start)
    return float(np.maximum(waits, 0.0).sum() / (end - start))
