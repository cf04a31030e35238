"""Paired bootstrap intervals on the difference of two runs over the same requests.

What is resampled. The requests of a run are not independent: those of a session share a prefix and an adapter, so they
are hits or misses together. Whole sessions are therefore drawn, both runs with the same draw, which keeps the pairing;
a request without a session is a session of its own. With several seeds, seeds are drawn first and sessions within each
drawn seed, since a seed fixes the arrivals and so the queue that all its requests stood in. With one seed that common
queue cannot be resampled: the interval then holds for this seed's arrivals only. With n seeds the spread between seeds
is understated by (n - 1)/n, as in any bootstrap of n units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.statistics import CONFIDENCE, FloatArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """``of_request``: cluster index of each request; ``of_seed``: per seed the indices of its clusters."""

    of_request: IntArray
    of_seed: tuple[IntArray, ...]

    @property
    def count(self) -> int:
        return sum(members.size for members in self.of_seed)


def cluster_requests(seeds: Sequence[int], sessions: Sequence[str], ids: Sequence[int]) -> Clusters:
    """One cluster per seed and session; a request with the empty session has one to itself."""
    keys = [
        (seed, session) if session else (seed, session, request)
        for seed, session, request in zip(seeds, sessions, ids, strict=True)
    ]
    index = {key: position for position, key in enumerate(dict.fromkeys(keys))}
    seed_of_cluster = np.array([key[0] for key in index], dtype=np.int64)
    members = tuple(np.flatnonzero(seed_of_cluster == seed) for seed in dict.fromkeys(seed_of_cluster.tolist()))
    return Clusters(np.array([index[key] for key in keys], dtype=np.int64), members)


def draw_weights(clusters: Clusters, resamples: int, generator: np.random.Generator) -> Iterator[IntArray]:
    """``resamples`` times how often each cluster is drawn. Advances ``generator``."""
    num_seeds = len(clusters.of_seed)
    for _ in range(resamples):
        weights = np.zeros(clusters.count, dtype=np.int64)
        drawn_seeds = np.bincount(generator.integers(num_seeds, size=num_seeds), minlength=num_seeds)
        for members, times in zip(clusters.of_seed, drawn_seeds, strict=True):
            # A seed drawn twice has its sessions drawn twice, independently.
            draws = generator.integers(members.size, size=members.size * int(times))
            weights[members] = np.bincount(draws, minlength=members.size)
        yield weights


class WeightedSample:
    """Values that can be summarised again and again under changing weights of their clusters; sorts once."""

    def __init__(self, values: FloatArray, clusters: IntArray, num_clusters: int) -> None:
        order = np.argsort(values, kind="stable")
        self._values = values[order]
        self._clusters = clusters[order]
        self._sums = np.bincount(clusters, weights=values, minlength=num_clusters)
        self._sizes = np.bincount(clusters, minlength=num_clusters)

    @property
    def num_clusters(self) -> int:
        """Clusters that have a value."""
        return int((self._sizes > 0).sum())

    def summarise(self, weights: IntArray, quantiles: Sequence[float]) -> list[float]:
        """The mean, then each quantile (numpy's linear rule), of the values repeated by the weight of their cluster.

        All NaN when no value has a weight.
        """
        total = int(weights @ self._sizes)
        if total == 0:
            return [np.nan] * (1 + len(quantiles))
        ends = np.cumsum(weights[self._clusters])
        ranks = np.array(quantiles) * (total - 1)
        below = np.floor(ranks)
        # The value at rank r of the repeated, sorted values is the first whose repetitions end beyond r.
        low = self._values[np.searchsorted(ends, below, side="right")]
        high = self._values[np.searchsorted(ends, np.minimum(below + 1, total - 1), side="right")]
        return [float(weights @ self._sums) / total, *(low + (high - low) * (ranks - below)).tolist()]


def bootstrap_differences(
    pairs: Sequence[tuple[WeightedSample, WeightedSample]],
    clusters: Clusters,
    quantiles: Sequence[float],
    resamples: int,
    seed: int,
) -> FloatArray:
    """95 % intervals of B - A, shape (pairs, 1 + quantiles, 2): for each pair of samples the mean and each quantile.

    All pairs see the same draws. The intervals are the percentiles of the resampled differences.
    """
    generator = np.random.default_rng(seed)
    differences = np.empty((resamples, len(pairs), 1 + len(quantiles)))
    for row, weights in enumerate(draw_weights(clusters, resamples, generator)):
        for column, (sample_a, sample_b) in enumerate(pairs):
            differences[row, column] = np.subtract(
                sample_b.summarise(weights, quantiles), sample_a.summarise(weights, quantiles)
            )
    tail = 100 * (1 - CONFIDENCE) / 2
    return np.moveaxis(np.nanpercentile(differences, [tail, 100 - tail], axis=0), 0, -1)
