"""Two traces side by side: how far apart their distributions are."""

from dataclasses import dataclass

import numpy as np

from workloads.arrivals import FloatArray, IntArray
from workloads.inspection import Inspection


@dataclass(frozen=True)
class Distance:
    """The two-sample Kolmogorov-Smirnov distance of one quantity: the largest difference of the two cumulative
    distributions, 0 for equal ones and 1 for disjoint ones. None where a trace has no value."""

    quantity: str
    ks: float | None


@dataclass(frozen=True)
class Comparison:
    """Two inspections for the same model and blocks, and the distances between them by quantity."""

    left: Inspection
    right: Inspection
    distances: tuple[Distance, ...]


def compare_inspections(left: Inspection, right: Inspection) -> Comparison:
    """Compares what was found in two traces.

    Gaps are compared in seconds and, as ``gap_shapes``, in units of their own mean, which leaves rates out.
    ``popularity`` compares the requests of adapters by rank, busiest first.
    """
    one, other = left.samples, right.samples
    samples: tuple[tuple[str, FloatArray | IntArray, FloatArray | IntArray], ...] = (
        ("gaps", one.gaps_s, other.gaps_s),
        ("gap_shapes", _in_means(one.gaps_s), _in_means(other.gaps_s)),
        ("turns", one.turns, other.turns),
        ("prompt_tokens", one.prompt_tokens, other.prompt_tokens),
        ("new_tokens", one.new_tokens, other.new_tokens),
        ("output_tokens", one.output_tokens, other.output_tokens),
    )
    distances = [Distance(quantity, ks_distance(*pair)) for quantity, *pair in samples]
    popularity = _shares_apart(one.requests_by_adapter, other.requests_by_adapter)
    return Comparison(left, right, (*distances, Distance("popularity", popularity)))


def ks_distance(left: FloatArray | IntArray, right: FloatArray | IntArray) -> float | None:
    """The two-sample Kolmogorov-Smirnov distance of two samples in any order; None when one of them is empty."""
    if not len(left) or not len(right):
        return None
    values = np.concatenate([left, right])
    below = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (left, right)]
    return float(np.abs(below[0] - below[1]).max())


def _in_means(gaps_s: FloatArray) -> FloatArray:
    return gaps_s / gaps_s.mean() if gaps_s.any() else gaps_s


def _shares_apart(left: IntArray, right: IntArray) -> float:
    """The largest difference of the cumulative shares of adapters by rank, which is the distance of the ranks."""
    ranks = max(len(left), len(right))
    shares = [np.cumsum(np.pad(counts, (0, ranks - len(counts)))) / counts.sum() for counts in (left, right)]
    return float(np.abs(shares[0] - shares[1]).max())
