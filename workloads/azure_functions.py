"""Azure Functions 2019 minute counts as an arrival process: the top-n functions by invocations are the n adapters
(the paper's method for translation and agents, HPCA version, section VI).

The file has no lengths and no prompts, so it is no trace by itself: a generator brings those.
"""

import csv
import hashlib
import heapq
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import Arrivals, FloatArray, IntArray, check_burstiness, gamma_gaps, shown_burstiness
from workloads.files import text_lines
from workloads.traps import minute_count_warnings

REQUIRED_COLUMN = "HashFunction"
MAX_COUNT_DIGITS = 12
MINUTE_COLUMN = re.compile(r"(?:minute_)?(\d+)")


@dataclass(frozen=True)
class FunctionCounts:
    """Invocations of the busiest functions, busiest first: ``counts`` has shape [functions, minutes]."""

    file_name: str
    sha256: str
    counts: IntArray


def read_function_counts(path: Path, num_functions: int) -> FunctionCounts:
    """Reads the ``num_functions`` rows with the most invocations; ties keep the file's order.

    Raises LibraError, with file, row and column, for wrong columns, counts that are not whole numbers of 0 or more,
    and a file with fewer functions than asked for.
    """
    digest = hashlib.sha256()
    reader = csv.reader(_hashed(text_lines(path), digest))
    header = next(reader, [])
    columns = _minute_columns(header, path)
    busiest: list[tuple[int, int, IntArray]] = []
    for number, row in enumerate(reader, start=2):
        counts = _minute_counts(row, header, columns, f"{path}, row {number}")
        heapq.heappush(busiest, (int(counts.sum()), -number, counts))
        if len(busiest) > num_functions:
            heapq.heappop(busiest)
    if len(busiest) < num_functions:
        raise LibraError(f"{path} has {len(busiest)} functions; use --num-loras {len(busiest)} or less")
    ranked = sorted(busiest, key=lambda entry: entry[:2], reverse=True)
    return FunctionCounts(path.name, digest.hexdigest(), np.stack([counts for _, _, counts in ranked]))


@dataclass(frozen=True)
class AzureFunctions:
    """Arrivals that follow the file's minutes from ``start_minute`` (1 is the first) on.

    The rate is met by scaling counts, which keeps the pattern in time and over functions: a count c becomes
    floor(scale) * c plus a binomial draw for the rest, so that scale 1 gives the recorded counts. What happens inside a
    minute is not recorded: ``burstiness`` is the assumed Gamma shape of the gaps there, and 1 is uniform placement.
    """

    path: Path
    burstiness: float = 1.0
    start_minute: int = 1
    source: str = "mapped"

    def __post_init__(self) -> None:
        check_burstiness(self.burstiness)
        if self.start_minute < 1:
            raise LibraError(f"--arrivals azure-functions:FILE@{self.start_minute}: minutes count from 1")

    def sample(
        self, rng: np.random.Generator, rate: float, start_s: float, end_s: float, num_adapters: int
    ) -> Arrivals:
        recorded = read_function_counts(self.path, num_adapters)
        window = self._window(recorded.counts, end_s - start_s)
        scale = rate * end_s / _expected_count(window, -start_s, end_s - start_s, self.path)
        counts = int(scale) * window + rng.binomial(window, scale % 1)
        cells = np.repeat(np.arange(counts.size), counts.ravel())
        functions, minutes = np.divmod(cells, window.shape[1])
        times = start_s + 60 * (minutes + _places_in_minute(rng, self.burstiness, cells))
        order = np.argsort(times, kind="stable")
        order = order[times[order] < end_s]
        return Arrivals(
            times[order],
            functions[order].astype(np.int64),
            {
                "function_counts": recorded.file_name,
                "function_counts_sha256": recorded.sha256,
                "count_scale": round(float(scale), 6),
                "start_minute": self.start_minute,
                "burstiness_in_minute": shown_burstiness(self.burstiness),
            },
            minute_count_warnings(recorded.counts),
        )

    def _window(self, counts: IntArray, span_s: float) -> IntArray:
        first, needed = self.start_minute - 1, math.ceil(span_s / 60)
        if first + needed > counts.shape[1]:
            raise LibraError(
                f"{self.path} holds {counts.shape[1]} minutes but the run, with sessions that began before it, "
                f"needs {needed} from minute {self.start_minute} on; use a shorter --duration or an earlier start"
            )
        return counts[:, first : first + needed]


def _expected_count(window: IntArray, from_s: float, to_s: float, path: Path) -> float:
    """Recorded invocations between two times in the window; a part of a minute has its share."""
    minute = np.arange(window.shape[1])
    share = np.clip(np.minimum(minute + 1, to_s / 60) - np.maximum(minute, from_s / 60), 0, 1)
    count = float((window.sum(axis=0) * share).sum())
    if count == 0:
        raise LibraError(f"{path}: the functions are not invoked in the run's minutes; use a longer --duration")
    return count


def _places_in_minute(rng: np.random.Generator, burstiness: float, cells: IntArray) -> FloatArray:
    """A place in [0, 1) for every event; events of one (function, minute) cell are neighbours in ``cells``.

    The events of a cell sit on a circle with Gamma gaps that add up to one turn, rotated at random: with burstiness 1
    that is uniform placement, exactly.
    """
    if not len(cells):
        return np.empty(0)
    first = np.flatnonzero(np.diff(cells, prepend=-1))
    sizes = np.diff(first, append=len(cells))
    gaps = gamma_gaps(rng, burstiness, len(cells))
    ends = np.cumsum(gaps)
    before = np.repeat(ends[first] - gaps[first], sizes)
    turn = np.repeat(np.add.reduceat(gaps, first), sizes)
    rotation = np.repeat(rng.random(len(first)), sizes)
    places: FloatArray = ((ends - before) / turn + rotation) % 1.0
    return places


def _hashed(lines: Iterator[str], digest: "hashlib._Hash") -> Iterator[str]:
    for line in lines:
        digest.update(line.encode())
        yield line


def _minute_columns(header: list[str], path: Path) -> list[int]:
    columns = [index for index, name in enumerate(header) if MINUTE_COLUMN.fullmatch(name)]
    if REQUIRED_COLUMN not in header or not columns:
        raise LibraError(
            f"{path}, row 1: needs a column {REQUIRED_COLUMN!r} and minute columns '1', '2', ... (or 'minute_1', ...); "
            "is this an invocations_per_function file?"
        )
    return columns


def _minute_counts(row: list[str], header: list[str], columns: list[int], where: str) -> IntArray:
    if len(row) != len(header):
        raise LibraError(f"{where}: has {len(row)} columns where the header has {len(header)}; is the file cut short?")
    for column in columns:
        if not (row[column].isdecimal() and len(row[column]) <= MAX_COUNT_DIGITS):
            raise LibraError(f"{where}, column {header[column]!r}: {row[column]!r} is not a count of 0 or more")
    return np.array([int(row[column]) for column in columns], dtype=np.int64)
