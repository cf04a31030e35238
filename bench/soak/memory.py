"""Whether memory stays flat, from samples of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Drift:
    """``slope_mib_per_h`` is the Theil-Sen estimate (the median of the slopes between all pairs of samples, which
    single peaks do not move); ``growth`` is what it makes over the samples' span, as a share of the first fitted value;
    ``min_mib`` and ``max_mib`` are the extremes."""

    slope_mib_per_h: float
    growth: float
    min_mib: float
    max_mib: float


def measure_drift(times_s: Sequence[float], rss_mib: Sequence[float]) -> Drift | None:
    """None for fewer than three samples or no time between them."""
    times, values = np.asarray(times_s), np.asarray(rss_mib)
    if len(times) < 3:
        return None
    first, second = np.triu_indices(len(times), 1)
    gaps = times[second] - times[first]
    apart = gaps > 0
    if not apart.any():
        return None
    slope = float(np.median((values[second] - values[first])[apart] / gaps[apart]))
    start = float(np.median(values - slope * (times - times[0])))
    growth = slope * float(times[-1] - times[0]) / start
    return Drift(slope * 3600.0, growth, float(values.min()), float(values.max()))
