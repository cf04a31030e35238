"""What call graphs look like: distributions of depth, width, degrees and repeated calls, and how far two sets of graphs
are apart in each (two-sample Kolmogorov-Smirnov)."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from workloads.graphs.calls import CallGraph

FEATURES = {
    "vertices": "vertices of a graph",
    "depth": "levels of a graph",
    "width": "vertices of its widest level",
    "in_degree": "callers of a vertex",
    "out_degree": "callees of a vertex",
    "repeats": "calls from one vertex to another",
}

# Feature -> value -> how often it occurs.
Shapes = Mapping[str, Mapping[int, int]]


def graph_shapes(graphs: Iterable[CallGraph]) -> dict[str, Counter[int]]:
    """The distributions of FEATURES over ``graphs``. The root, which nobody calls, has no in-degree."""
    shapes: dict[str, Counter[int]] = {feature: Counter() for feature in FEATURES}
    for graph, number in Counter(graphs).items():
        pairs = {(edge.caller, edge.callee) for edge in graph.edges}
        callers = Counter(callee for _, callee in pairs)
        callees = Counter(caller for caller, _ in pairs)
        places = range(len(graph.vertices))
        found = {
            "vertices": [len(graph.vertices)],
            "depth": [max(graph.levels) + 1],
            "width": [max(Counter(graph.levels).values())],
            "in_degree": [callers[place] for place in places[1:]],
            "out_degree": [callees[place] for place in places],
            "repeats": [edge.times for edge in graph.edges],
        }
        for feature, values in found.items():
            for value in values:
                shapes[feature][value] += number
    return shapes


def merged_shapes(parts: Iterable[Shapes]) -> dict[str, Counter[int]]:
    """The distributions over all graphs of several sets."""
    shapes: dict[str, Counter[int]] = {feature: Counter() for feature in FEATURES}
    for part in parts:
        for feature in FEATURES:
            shapes[feature].update(part[feature])
    return shapes


@dataclass(frozen=True)
class Closeness:
    """One feature of two sets of graphs. ``distance`` is the largest gap between their distribution functions, and
    ``p_value`` how likely as large a gap would be if both were drawn from one distribution: asymptotic, and too high
    for features of few distinct values, as all of these are. None where a set has no value."""

    feature: str
    source_mean: float | None
    generated_mean: float | None
    distance: float | None
    p_value: float | None


def closeness(source: Shapes, generated: Shapes) -> list[Closeness]:
    """How close ``generated`` is to ``source``, feature by feature."""
    rows = []
    for feature in FEATURES:
        left, right = source[feature], generated[feature]
        distance, p_value = ks_distance(left, right) if left and right else (None, None)
        rows.append(Closeness(feature, _mean(left), _mean(right), distance, p_value))
    return rows


def ks_distance(left: Mapping[int, int], right: Mapping[int, int]) -> tuple[float, float]:
    """The two-sample Kolmogorov-Smirnov distance of two histograms that are not empty, and its asymptotic p-value with
    Stephens' correction for small samples (J. R. Stat. Soc. B 32, 1970)."""
    values = sorted(left.keys() | right.keys())
    counts = np.array([[side.get(value, 0) for value in values] for side in (left, right)], dtype=float)
    totals = counts.sum(axis=1)
    distance = float(np.abs(np.subtract(*(counts.cumsum(axis=1) / totals[:, np.newaxis]))).max())
    root = math.sqrt(totals.prod() / totals.sum())
    return distance, _kolmogorov_tail((root + 0.12 + 0.11 / root) * distance)


def _kolmogorov_tail(scaled: float) -> float:
    """The probability that Kolmogorov's statistic exceeds ``scaled``. Its series is not summable near 0, where the
    probability is 1 to seven digits."""
    if scaled < 0.3:
        return 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 20))
    return min(1.0, max(0.0, math.fsum(terms)))


def _mean(histogram: Mapping[int, int]) -> float | None:
    total = sum(histogram.values())
    return sum(value * count for value, count in histogram.items()) / total if total else None
