"""Azure Functions 2019 minute counts as an arrival process: the top-n functions by invocations are the n adapters
(the paper's method for translation and agents, HPCA version, section III-B).

The file has no lengths and no prompts, so it is no trace by itself: a generator brings those.
"""

import hashlib
import heapq
import math
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import Arrivals, IntArray, check_burstiness, gamma_gaps, shown_burstiness
from workloads.cells import count_cells, expected_count, places_in_cells, scaled_counts
from workloads.formats import DEFAULT_MAX_BYTES
from workloads.sources import Source, open_sources
from workloads.tables import raw_csv
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


def read_function_counts(path: Path, num_functions: int, max_bytes: int = DEFAULT_MAX_BYTES) -> FunctionCounts:
    """Reads the ``num_functions`` rows with the most invocations, of a file that may be compressed; ties keep its
    order.

    Raises LibraError, with file, row and column, for wrong columns, counts that are not whole numbers of 0 or more,
    a file with fewer functions than asked for, and one of more than ``max_bytes`` after decompression.
    """
    if path.is_dir():
        raise LibraError(f"{path} is a folder; name one file of minute counts")
    with closing(open_sources([path], max_bytes)) as sources:
        busiest = _busiest(next(sources), num_functions)
    if len(busiest) < num_functions:
        raise LibraError(f"{path} has {len(busiest)} functions; use --num-loras {len(busiest)} or less")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FunctionCounts(path.name, digest, np.stack(busiest))


def _busiest(source: Source, num_functions: int) -> list[IntArray]:
    """The counts of the busiest functions, busiest first. Raises LibraError."""
    reader = raw_csv(source)
    header = next(reader, [])
    columns = minute_columns(header, source.name)
    busiest: list[tuple[int, int, IntArray]] = []
    for number, row in enumerate(reader, start=2):
        counts = minute_counts(row, header, columns, f"{source.name}, row {number}")
        heapq.heappush(busiest, (int(counts.sum()), -number, counts))
        if len(busiest) > num_functions:
            heapq.heappop(busiest)
    return [counts for _, _, counts in sorted(busiest, key=lambda entry: entry[:2], reverse=True)]


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
        expected = expected_count(window, 60, -start_s, end_s - start_s)
        if expected == 0:
            raise LibraError(
                f"{self.path}: the functions are not invoked in the run's minutes; use a longer --duration"
            )
        scale = rate * end_s / expected
        cells, functions, minutes = count_cells(scaled_counts(rng, window, scale))
        gaps = gamma_gaps(rng, self.burstiness, len(cells))
        times = start_s + 60 * (minutes + places_in_cells(rng, cells, gaps))
        order = np.argsort(times, kind="stable")
        order = order[times[order] < end_s]
        return Arrivals(
            times[order],
            functions[order],
            parameters={
                "function_counts": recorded.file_name,
                "function_counts_sha256": recorded.sha256,
                "count_scale": round(float(scale), 6),
                "start_minute": self.start_minute,
                "burstiness_in_minute": shown_burstiness(self.burstiness),
            },
            warnings=minute_count_warnings(recorded.counts),
        )

    def _window(self, counts: IntArray, span_s: float) -> IntArray:
        first, needed = self.start_minute - 1, math.ceil(span_s / 60)
        if first + needed > counts.shape[1]:
            raise LibraError(
                f"{self.path} holds {counts.shape[1]} minutes but the run, with sessions that began before it, "
                f"needs {needed} from minute {self.start_minute} on; use a shorter --duration or an earlier start"
            )
        return counts[:, first : first + needed]


def minute_columns(header: list[str], path: str) -> list[int]:
    """The places of the minute columns. Raises LibraError for a header that is not of a minute count file."""
    columns = [index for index, name in enumerate(header) if MINUTE_COLUMN.fullmatch(name)]
    if REQUIRED_COLUMN not in header or not columns:
        raise LibraError(
            f"{path}, row 1: needs a column {REQUIRED_COLUMN!r} and minute columns '1', '2', ... (or 'minute_1', ...); "
            "is this an invocations_per_function file?"
        )
    return columns


def minute_counts(row: list[str], header: list[str], columns: list[int], where: str) -> IntArray:
    """The counts of one row. Raises LibraError, with the column, for anything but whole numbers of 0 or more."""
    if len(row) != len(header):
        raise LibraError(f"{where}: has {len(row)} columns where the header has {len(header)}; is the file cut short?")
    for column in columns:
        if not (row[column].isdecimal() and len(row[column]) <= MAX_COUNT_DIGITS):
            raise LibraError(f"{where}, column {header[column]!r}: {row[column]!r} is not a count of 0 or more")
    return np.array([int(row[column]) for column in columns], dtype=np.int64)
