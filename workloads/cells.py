"""Arrivals from tables of counts: how many events fall into each cell of a table [sources, windows of equal width]."""

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import FloatArray, IntArray

MAX_EVENTS = 5_000_000


def scaled_counts(rng: np.random.Generator, counts: IntArray, scale: float) -> IntArray:
    """Counts times ``scale`` on average: floor(scale) * c plus a binomial draw, so scale 1 gives the recorded ones."""
    scaled: IntArray = int(scale) * counts + rng.binomial(counts, scale % 1)
    return scaled


def expected_count(counts: IntArray, width_s: float, from_s: float, to_s: float) -> float:
    """Events between two times after the table's start; a part of a window has its share."""
    window = np.arange(counts.shape[1])
    share = np.clip(np.minimum(window + 1, to_s / width_s) - np.maximum(window, from_s / width_s), 0, 1)
    return float((counts.sum(axis=0) * share).sum())


def refuse_too_many(expected: float, source: str) -> None:
    """Raises LibraError where a conversion would make more requests than a trace can sensibly hold."""
    if expected > MAX_EVENTS:
        raise LibraError(
            f"{source}: {expected:,.0f} requests would be made, more than {MAX_EVENTS:,}; choose a part with "
            "--source-start and --source-duration, or a lower --request-rate where the source takes one"
        )


def count_cells(counts: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Per event, in order of the cells: the cell's number, its source (row) and its window (column)."""
    cells = np.repeat(np.arange(counts.size, dtype=np.int64), counts.ravel())
    sources, windows = np.divmod(cells, counts.shape[1])
    return cells, sources, windows


def places_in_cells(rng: np.random.Generator, cells: IntArray, gaps: FloatArray) -> FloatArray:
    """A place in [0, 1) for every event; ``cells`` names each one's cell, and a cell's events are neighbours in it.

    The events of a cell sit on a circle with their ``gaps``, scaled to add up to one turn, rotated at random: with
    exponential gaps that is uniform placement, exactly.
    """
    if not len(cells):
        return np.empty(0)
    first = np.flatnonzero(np.diff(cells, prepend=-1))
    sizes = np.diff(first, append=len(cells))
    ends = np.cumsum(gaps)
    before = np.repeat(ends[first] - gaps[first], sizes)
    turn = np.repeat(np.add.reduceat(gaps, first), sizes)
    rotation = np.repeat(rng.random(len(first)), sizes)
    places: FloatArray = ((ends - before) / turn + rotation) % 1.0
    return places
