"""The few statistics a report needs: percentiles, intervals over seeds, fairness."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)
PERCENTILE_METHOD: Literal["linear"] = "linear"
CONFIDENCE = 0.95

FloatArray = NDArray[np.float64]

# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom; above that the expansion below is exact to 4 digits.
_T_QUANTILES = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814)
_NORMAL_QUANTILE = 1.959963985


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds: the mean and its 95 % interval. ``low`` and ``high`` are None with fewer than two seeds."""

    mean: float | None
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float | None:
        """What stands after the ± sign; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2


def student_t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: a two-sided 95 % interval is mean ± this times the standard error."""
    if degrees < 1:
        raise ValueError("an interval needs at least two samples")
    if degrees <= len(_T_QUANTILES):
        return _T_QUANTILES[degrees - 1]
    z = _NORMAL_QUANTILE
    # Cornish-Fisher expansion of t in 1/degrees (Abramowitz and Stegun 26.7.5).
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def estimate(samples: Iterable[float | None]) -> Estimate:
    """Mean and Student-t interval over the samples that exist; one sample gives no interval, none gives None."""
    present = [float(sample) for sample in samples if sample is not None]
    if not present:
        return Estimate(None)
    mean = math.fsum(present) / len(present)
    if len(present) == 1:
        return Estimate(mean)
    variance = math.fsum((sample - mean) ** 2 for sample in present) / (len(present) - 1)
    half_width = student_t_quantile(len(present) - 1) * math.sqrt(variance / len(present))
    return Estimate(mean, mean - half_width, mean + half_width)


def distribution(name: str, values: FloatArray) -> dict[str, float | None]:
    """``mean_<name>``, ``median_``, ``std_`` (population) and ``p50_`` to ``p99_``; all None without values."""
    keys = [f"mean_{name}", f"median_{name}", f"std_{name}", *(f"p{percent}_{name}" for percent in PERCENTILES)]
    if not values.size:
        return dict.fromkeys(keys)
    percentiles = np.percentile(values, PERCENTILES, method=PERCENTILE_METHOD)
    figures = [values.mean(), percentiles[0], values.std(), *percentiles]
    return {key: float(figure) for key, figure in zip(keys, figures, strict=True)}


def ratio(part: float, whole: float) -> float | None:
    """``part / whole``; None where there is no whole."""
    return float(part / whole) if whole else None


def jain_index(shares: Sequence[float]) -> float | None:
    """Jain's fairness index: 1 when all shares are equal, 1/n when one of n has everything; None without shares."""
    values = np.asarray(shares, dtype=float)
    if not values.size:
        return None
    squares = float((values**2).sum()) * values.size
    return float(values.sum()) ** 2 / squares if squares else 1.0
