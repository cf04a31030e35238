"""ServeGen's clients as requests: the trace that workloads.servegen describes, with a client per adapter.

Mapped: adapters, and arrivals from counts per 10 minutes, with gaps of the fitted shapes. Drawn: lengths, from the
published distributions. Generated: prefixes, which are not published, so every prompt is a text of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import IntArray
from workloads.cells import expected_count
from workloads.formats import ReadOptions
from workloads.garbage import collection_paused
from workloads.header import Provenance
from workloads.recorded import Recorded
from workloads.seeds import generator
from workloads.servegen import WINDOW_S, ClientEvents, Clients, read_clients, sample_events
from workloads.servegen_lengths import LengthTable, pooled
from workloads.trace import Trace
from workloads.unhashed import unhashed_request

RECORDED = Provenance("mapped", "mapped", "drawn", "generated")


@dataclass(frozen=True)
class ServeGenReader:
    """Reads the folder or archive of one model's chunks. ``options.request_rate`` scales all clients alike; without it
    the counts are the recorded ones."""

    name: str = "servegen"
    summary: str = "Aliyun's clients as fitted arrivals and lengths: client -> adapter; see --source-duration"
    required_columns: tuple[frozenset[str], ...] = ()
    provenance: Provenance = RECORDED

    @collection_paused()
    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Samples a trace of the part of the source that ``options`` choose. Raises LibraError."""
        known = read_clients(paths, options.max_bytes)
        span_s = options.span_s or WINDOW_S * known.counts.shape[1] - options.start_s
        if span_s <= 0:
            raise LibraError(f"--source-start {options.start_s:g} is past the end of the ServeGen data")
        clients = known.part(options.start_s, span_s)
        scale = _scale(clients, options, span_s)
        events = sample_events(clients, generator(options.seed, "arrivals"), scale)
        inside = (events.times >= options.start_s) & (events.times < options.start_s + span_s)
        events = ClientEvents(events.times[inside], events.clients[inside])
        prompts, outputs, unknown = _draw_lengths(clients, events, options.seed)
        times = np.round(events.times - options.start_s, 6).tolist()
        rows = zip(times, prompts.tolist(), outputs.tolist(), strict=True)
        found = Recorded(
            name=paths[0].stem,
            format=self.name,
            requests=[unhashed_request(number, at, prompt, output) for number, (at, prompt, output) in enumerate(rows)],
            duration_s=span_s,
            provenance=RECORDED,
            keys=[clients.names[client] for client in events.clients.tolist()],
            key_name="client",
            parameters=_parameters(options, scale),
            counts={"requests_with_pooled_lengths": unknown} if unknown else {},
            warnings=_pool_warning(unknown, len(times)),
            sampled=True,
        )
        return found.trace(options)


def _parameters(options: ReadOptions, scale: float) -> dict[str, Any]:
    noted = {"source_start_s": options.start_s, "count_scale": float(f"{scale:.6g}")}
    return noted if options.request_rate is None else {**noted, "request_rate": options.request_rate}


def _scale(clients: Clients, options: ReadOptions, span_s: float) -> float:
    if options.request_rate is None:
        return 1.0
    from_s = options.start_s - clients.start_s
    expected = expected_count(clients.counts, WINDOW_S, from_s, from_s + span_s)
    if not expected:
        raise LibraError("the ServeGen clients send nothing in this part; choose another with --source-start")
    return options.request_rate * span_s / expected


def _draw_lengths(clients: Clients, events: ClientEvents, seed: int) -> tuple[IntArray, IntArray, int]:
    """Prompt and output tokens of every event, and how many are of clients whose lengths are not published."""
    rng = generator(seed, "lengths")
    prompts, outputs = np.ones(len(events.times), dtype=np.int64), np.ones(len(events.times), dtype=np.int64)
    order = np.argsort(events.clients, kind="stable")
    sizes = np.bincount(events.clients, minlength=len(clients.names))
    stops = np.cumsum(sizes).tolist()
    pool, unknown = _pool(clients), 0
    for client, (size, stop) in enumerate(zip(sizes.tolist(), stops, strict=True)):
        if size:
            own = clients.lengths[client]
            unknown += 0 if own is not None else size
            here = order[stop - size : stop]
            prompts[here], outputs[here] = (own or pool).sample(rng, events.times[here])
    return prompts, outputs, unknown


def _pool(clients: Clients) -> LengthTable:
    counts = clients.counts.sum(axis=1).tolist()
    known = [(table, count + 1.0) for table, count in zip(clients.lengths, counts, strict=True) if table is not None]
    if not known:
        raise LibraError("no ServeGen client has lengths: the chunk-N-dataset.json files must lie beside the traces")
    return pooled(known)


def _pool_warning(unknown: int, total: int) -> tuple[str, ...]:
    if not unknown:
        return ()
    return (f"{unknown / total:.0%} of requests are of clients without a dataset file: their lengths are the others'",)
