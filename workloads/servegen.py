"""ServeGen (NSDI 2026, arXiv 2505.09999): clients of Aliyun Model Studio as fitted arrival processes, a tenant each.

``chunk-N-trace.csv`` has a row per 10 minutes without a header: start in seconds, requests per second, CV of the gaps,
then the fitted distribution of the gaps (Gamma or Weibull) with its shape and scale, or nothing where there were no
requests. Rate times 600 is a whole number in all published rows, so the rate is the count of that window; the fitted
scales belong to another mean gap than the rates do, so the shape is used and the count sets the scale.
``chunk-N-dataset.json`` has a distribution of input and output tokens per 6 hours (workloads.servegen_lengths).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import Arrivals, FloatArray, IntArray
from workloads.cells import count_cells, expected_count, places_in_cells, refuse_too_many, scaled_counts
from workloads.formats import DEFAULT_MAX_BYTES
from workloads.rows import FieldFault
from workloads.servegen_lengths import LengthTable, read_length_table
from workloads.sources import Source, open_sources
from workloads.tables import Ordered, finite_number, raw_csv

WINDOW_S = 600
CHUNK = re.compile(r"chunk-(\d+)-(trace\.csv|dataset\.json)")
GAMMA, WEIBULL = "Gamma", "Weibull"
NO_REQUESTS = ""


@dataclass(frozen=True)
class Clients:
    """What is known of every client, busiest first. ``counts`` and ``shapes`` have shape [clients, windows]; a negative
    shape is a Weibull's. ``lengths`` has None for a client without any."""

    names: tuple[str, ...]
    start_s: float
    counts: IntArray
    shapes: FloatArray
    lengths: tuple[LengthTable | None, ...]

    def part(self, start_s: float, span_s: float) -> "Clients":
        """The windows that overlap [start_s, start_s + span_s), the clients busiest in them first.

        Raises LibraError where the data does not reach that far.
        """
        first = math.floor((start_s - self.start_s) / WINDOW_S)
        last = math.ceil((start_s + span_s - self.start_s) / WINDOW_S)
        if first < 0 or last > self.counts.shape[1]:
            end_s = self.start_s + WINDOW_S * self.counts.shape[1]
            raise LibraError(
                f"the ServeGen clients are known from {self.start_s:g} s to {end_s:g} s, and {start_s:g} s to "
                f"{start_s + span_s:g} s are needed; choose another start or a shorter run"
            )
        counts = self.counts[:, first:last]
        order = np.argsort(-counts.sum(axis=1), kind="stable")
        return Clients(
            tuple(self.names[client] for client in order),
            self.start_s + WINDOW_S * first,
            counts[order],
            self.shapes[order, first:last],
            tuple(self.lengths[client] for client in order),
        )

    def busiest(self, num_clients: int) -> "Clients":
        """The first ``num_clients`` of them. Raises LibraError where there are fewer with a request."""
        found = int(np.count_nonzero(self.counts.any(axis=1)))
        if num_clients > found:
            raise LibraError(f"ServeGen: {found} clients send requests in this part; use --num-loras {found} or less")
        kept = slice(num_clients)
        return Clients(self.names[kept], self.start_s, self.counts[kept], self.shapes[kept], self.lengths[kept])


class ClientEvents(NamedTuple):
    """Requests by time: seconds of the source, and the number of the client that sends each."""

    times: FloatArray
    clients: IntArray


def sample_events(clients: Clients, rng: np.random.Generator, scale: float) -> ClientEvents:
    """Requests of all clients, ``scale`` times as many as recorded. Advances ``rng`` only.

    A window's requests sit on a circle with gaps of the fitted shape, so that its count is exact (cells).
    """
    refuse_too_many(float(clients.counts.sum()) * scale, "ServeGen")
    cells, client, window = count_cells(scaled_counts(rng, clients.counts, scale))
    gaps = _gaps(rng, clients.shapes[client, window])
    times = clients.start_s + WINDOW_S * (window + places_in_cells(rng, cells, gaps))
    order = np.argsort(times, kind="stable")
    return ClientEvents(times[order], client[order])


def _gaps(rng: np.random.Generator, shapes: FloatArray) -> FloatArray:
    """A gap of any scale per event: Gamma where the shape is positive, Weibull where it is negative."""
    gaps = np.empty(len(shapes))
    gamma = shapes > 0
    gaps[gamma] = rng.gamma(shapes[gamma])
    gaps[~gamma] = rng.weibull(-shapes[~gamma])
    # A gap can be 0 in floating point at a very small shape; a cell of such gaps alone would have no length.
    return np.maximum(gaps, np.finfo(float).tiny)


@dataclass(frozen=True)
class ServeGenClients:
    """An arrival process (workloads.arrivals): the n busiest clients are the n adapters.

    ``path`` is a folder or archive of chunks, ``start_s`` the place in the source where the run's time 0 is; None is
    the first place with enough before it for sessions that begin before time 0. The rate is met by scaling every count
    alike, which keeps the pattern in time and over clients.
    """

    path: Path
    start_s: float | None = None
    source: str = "mapped"
    max_bytes: int = DEFAULT_MAX_BYTES

    def sample(
        self, rng: np.random.Generator, rate: float, start_s: float, end_s: float, num_adapters: int
    ) -> Arrivals:
        known = read_clients([self.path], self.max_bytes, with_lengths=False)
        origin_s = known.start_s - start_s if self.start_s is None else self.start_s
        clients = known.part(origin_s + start_s, end_s - start_s).busiest(num_adapters)
        zero = origin_s - clients.start_s
        expected = expected_count(clients.counts, WINDOW_S, zero, zero + end_s)
        if expected == 0:
            raise LibraError(f"{self.path}: the clients send nothing in the run's time; use a longer --duration")
        scale = rate * end_s / expected
        events = sample_events(clients, rng, scale)
        times = events.times - origin_s
        inside = (times >= start_s) & (times < end_s)
        return Arrivals(
            times[inside],
            events.clients[inside],
            parameters={
                "clients": self.path.name,
                "client_names": list(clients.names),
                "count_scale": float(f"{scale:.6g}"),
                "source_start_s": origin_s,
            },
        )


def read_clients(paths: Sequence[Path], max_bytes: int, with_lengths: bool = True) -> Clients:
    """All clients of folders, archives or files of chunks, busiest first. Raises LibraError, with file and row."""
    traces: dict[str, list[_Window]] = {}
    lengths: dict[str, LengthTable | None] = {}
    for source in open_sources(paths, max_bytes, ("-trace.csv", "-dataset.json") if with_lengths else ("-trace.csv",)):
        known = CHUNK.fullmatch(source.path.name)
        if known is None:
            raise LibraError(f"{source.name}: ServeGen's files are called chunk-N-trace.csv and chunk-N-dataset.json")
        name = f"client-{known[1]}"
        if name in (traces if known[2] == "trace.csv" else lengths):
            raise LibraError(f"{source.name}: chunk {known[1]} comes twice; convert one model's folder at a time")
        if known[2] == "trace.csv":
            traces[name] = _read_windows(source)
        else:
            lengths[name] = read_length_table(source)
    if not traces:
        raise LibraError(f"{paths[0]}: no chunk-N-trace.csv here; is this a model's folder of ServeGen's data?")
    return _clients(traces, lengths)


class _Window(NamedTuple):
    start_s: int
    num_requests: int
    shape: float


def _read_windows(source: Source) -> list[_Window]:
    """The windows of one client, one every WINDOW_S."""
    order = Ordered("1 (start)")
    windows: list[_Window] = []
    for number, row in enumerate(raw_csv(source), start=1):
        try:
            window = _window(row)
            order.check(window.start_s)
            if windows and window.start_s != windows[-1].start_s + WINDOW_S:
                raise FieldFault("1 (start)", f"is {window.start_s}, not {WINDOW_S} s after the row before")
        except FieldFault as fault:
            raise LibraError(f"{source.name}, row {number}, column {fault}") from None
        windows.append(window)
    if not windows:
        raise LibraError(f"{source.name}: is empty")
    return windows


def _window(row: list[str]) -> _Window:
    if len(row) != 6:
        raise FieldFault("6", f"must be the last of 6 columns; the row has {len(row)}: is the file cut short?")
    start, rate, _, kind, shape, _ = row
    start_s, per_second = finite_number("1 (start)", start), finite_number("2 (rate)", rate)
    if start_s % 1:
        raise FieldFault("1 (start)", f"is {start}; it must be a whole number of seconds")
    count = round(per_second * WINDOW_S)
    if kind not in (GAMMA, WEIBULL, NO_REQUESTS) or (count and kind == NO_REQUESTS):
        raise FieldFault("4 (distribution)", f"is {kind!r}; it must be {GAMMA}, {WEIBULL}, or empty at rate 0")
    value = finite_number("5 (shape)", shape)
    if count and not value:
        raise FieldFault("5 (shape)", "is 0; it must be positive")
    return _Window(int(start_s), count, -value if kind == WEIBULL else value or 1.0)


def _clients(traces: dict[str, list[_Window]], lengths: dict[str, LengthTable | None]) -> Clients:
    start_s = min(windows[0].start_s for windows in traces.values())
    end_s = max(windows[-1].start_s for windows in traces.values()) + WINDOW_S
    shape = (len(traces), (end_s - start_s) // WINDOW_S)
    counts, shapes = np.zeros(shape, dtype=np.int64), np.ones(shape)
    for client, windows in enumerate(traces.values()):
        first = (windows[0].start_s - start_s) // WINDOW_S
        counts[client, first : first + len(windows)] = [window.num_requests for window in windows]
        shapes[client, first : first + len(windows)] = [window.shape for window in windows]
    known = Clients(tuple(traces), start_s, counts, shapes, tuple(lengths.get(name) for name in traces))
    return known.part(start_s, end_s - start_s)
