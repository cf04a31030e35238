"""Whether memory stays flat, from samples of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Of the samples, at either end, whose medians are compared.
END_SHARE = 0.2
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Drift:
    """``slope_mib_per_h`` is the Theil-Sen estimate (the median of the slopes between all pairs of samples, which
    single peaks do not move); ``growth`` is what it makes over the samples' span, as a share of the first fitted value;
    ``ends_growth`` is how far the median of the last fifth of the samples lies above that of the first, as a share,
    which sees a late step that hardly moves the slope. ``min_mib`` and ``max_mib`` are the extremes."""

    slope_mib_per_h: float
    growth: float
    ends_growth: float
    min_mib: float
    max_mib: float

    @property
    def worst(self) -> float:
        """The larger of both measures: memory is flat when neither sees it grow."""
        return max(self.growth, self.ends_growth)


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
    num_ends = max(1, round(END_SHARE * len(values)))
    first_end, last_end = (float(np.median(end)) for end in (values[:num_ends], values[-num_ends:]))
    return Drift(slope * 3600.0, growth, last_end / first_end - 1.0, float(values.min()), float(values.max()))


def curve(values: Sequence[float], width: int = 60) -> str:
    """The course of ``values`` as a row of at most ``width`` bars from their least to their greatest, each the greatest
    of its part."""
    if not values:
        return ""
    parts = [part.max() for part in np.array_split(np.asarray(values, dtype=float), min(width, len(values)))]
    least, greatest = min(values), max(values)
    scale = (len(_BARS) - 1) / (greatest - least) if greatest > least else 0.0
    return "".join(_BARS[round(float(part - least) * scale)] for part in parts)
