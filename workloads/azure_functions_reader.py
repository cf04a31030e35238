"""Azure Functions as requests: invocations of functions, each an adapter, with lengths that the source does not have.

2019 (Serverless in the Wild, USENIX ATC 2020): counts per minute. A minute's invocations are placed inside it with gaps
of an assumed Gamma shape (``burstiness``; 1 is uniform placement). 2021 (Faster and Cheaper Serverless Computing on
Harvested Resources, SOSP 2021): one row per invocation; it arrives ``duration`` before ``end_timestamp``.
Mapped: arrivals and adapters. Generated: lengths, from the chatbot scenario's distributions, and prefixes (none).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import FloatArray, IntArray, gamma_gaps, shown_burstiness
from workloads.azure_functions import REQUIRED_COLUMN, minute_columns, minute_counts
from workloads.cells import count_cells, places_in_cells, refuse_too_many
from workloads.chatbot import CHATBOT
from workloads.distributions import whole_tokens
from workloads.formats import ReadOptions
from workloads.garbage import collection_paused
from workloads.header import Provenance
from workloads.recorded import Recorded
from workloads.rows import FieldFault
from workloads.seeds import generator
from workloads.sources import Source, open_sources
from workloads.tables import csv_rows, finite_number, raw_csv
from workloads.trace import Trace
from workloads.traps import arrival_warnings, minute_count_warnings
from workloads.unhashed import observed_seconds, unhashed_request

MINUTE_S = 60
SHOWN_HASH = 12
INVOCATION_COLUMNS = ("app", "func", "end_timestamp", "duration")
RECORDED = Provenance("mapped", "mapped", "generated", "generated")


@dataclass(frozen=True)
class AzureFunctionsReader:
    """Reads minute counts of one file (2019), or invocations (2021). With fewer adapters than functions, the top n by
    invocations have an adapter each; ``--other-keys drop`` is then the paper's method."""

    name: str = "azure-functions"
    summary: str = "invocations of functions, 2019 (counts per minute) or 2021 (one row each): function -> adapter"
    required_columns: tuple[frozenset[str], ...] = (
        frozenset({REQUIRED_COLUMN}),
        frozenset(INVOCATION_COLUMNS),
    )
    provenance: Provenance = RECORDED

    @collection_paused()
    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files of one of the two kinds. Raises LibraError."""
        minutes: list[_Minutes] = []
        invocations = _Invocations()
        for source in open_sources(paths, options.max_bytes, (".csv",)):
            if REQUIRED_COLUMN in source.head():
                minutes.append(_read_minutes(source, options))
            else:
                for _ in csv_rows(source, INVOCATION_COLUMNS, invocations.add):
                    pass
        if len(minutes) + bool(invocations.starts) > 1:
            raise LibraError(
                f"{paths[0]}: give one file of minute counts, or files of invocations; convert the rest apart"
            )
        events = _from_minutes(minutes[0], options) if minutes else invocations.events()
        return _recorded(events, paths[0].stem, self.name, options).trace(options)


class _Events(NamedTuple):
    """Invocations by time, from 0 on, with the number of each one's function."""

    times: FloatArray
    functions: IntArray
    names: list[str]
    duration_s: float
    parameters: dict[str, Any]
    warnings: tuple[str, ...]
    sampled: bool


class _Minutes(NamedTuple):
    """Counts, shape [functions, minutes of the chosen part]; functions without a call there are left out."""

    names: list[str]
    counts: IntArray
    num_unused: int


def _read_minutes(source: Source, options: ReadOptions) -> _Minutes:
    reader = raw_csv(source)
    header = next(reader, [])
    columns = minute_columns(header, source.name)
    first = int(options.start_s // MINUTE_S)
    last = len(columns) if options.span_s is None else math.ceil((options.start_s + options.span_s) / MINUTE_S)
    if not first < last <= len(columns):
        raise LibraError(
            f"{source.name} holds {len(columns)} minutes; choose --source-start and --source-duration inside"
        )
    name_column = header.index(REQUIRED_COLUMN)
    names, rows, unused = [], [], 0
    for number, row in enumerate(reader, start=2):
        counts = minute_counts(row, header, columns, f"{source.name}, row {number}")[first:last]
        if counts.any():
            names.append(row[name_column][:SHOWN_HASH])
            rows.append(counts)
        else:
            unused += 1
    if not rows:
        raise LibraError(f"{source.name}: no function is invoked in minutes {first + 1} to {last}")
    return _Minutes(_distinct(names), np.stack(rows), unused)


def _from_minutes(minutes: _Minutes, options: ReadOptions) -> _Events:
    """The counted invocations at drawn places in their minutes."""
    refuse_too_many(float(minutes.counts.sum()), "these minute counts")
    rng = generator(options.seed, "arrivals")
    cells, functions, minute = count_cells(minutes.counts)
    gaps = gamma_gaps(rng, options.burstiness, len(cells))
    offset_s = options.start_s % MINUTE_S
    times = np.round(MINUTE_S * (minute + places_in_cells(rng, cells, gaps)) - offset_s, 6)
    duration_s = MINUTE_S * minutes.counts.shape[1] - offset_s if options.span_s is None else options.span_s
    order = np.argsort(times, kind="stable")
    order = order[(times[order] >= 0) & (times[order] < duration_s)]
    return _Events(
        times[order],
        functions[order],
        minutes.names,
        duration_s,
        {
            "burstiness_in_minute": shown_burstiness(options.burstiness),
            "source_start_s": options.start_s,
            "functions_without_a_call": minutes.num_unused,
        },
        minute_count_warnings(minutes.counts),
        sampled=True,
    )


class _Invocations:
    """The invocations of the 2021 files read so far."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self._functions: list[int] = []
        self._numbers: dict[tuple[str, str], int] = {}

    def add(self, fields: Sequence[str]) -> None:
        """Adds a row. Raises FieldFault."""
        app, function, end, duration = fields
        if not (app and function):
            raise FieldFault("func", "and 'app' must not be empty")
        self.starts.append(finite_number("end_timestamp", end) - finite_number("duration", duration))
        self._functions.append(self._numbers.setdefault((app, function), len(self._numbers)))

    def events(self) -> _Events:
        """All of them by start, the first at 0."""
        starts = np.array(self.starts)
        order = np.argsort(starts, kind="stable")
        times = np.round(starts[order] - starts[order[:1]], 6)
        return _Events(
            times,
            np.array(self._functions, dtype=np.int64)[order],
            _distinct([function[:SHOWN_HASH] for _, function in self._numbers]),
            observed_seconds(times),
            {},
            arrival_warnings(times),
            sampled=False,
        )


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number after those that an earlier one equals."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return distinct


def _recorded(events: _Events, name: str, trace_format: str, options: ReadOptions) -> Recorded:
    rng = generator(options.seed, "lengths")
    count, limit = len(events.times), CHATBOT.max_utterance_tokens
    prompts = whole_tokens(CHATBOT.user_tokens.sample(rng, count), limit).tolist()
    answers = whole_tokens(CHATBOT.answer_tokens.sample(rng, count), limit).tolist()
    return Recorded(
        name=name,
        format=trace_format,
        requests=[
            unhashed_request(number, arrival_s, prompt, answer)
            for number, (arrival_s, prompt, answer) in enumerate(
                zip(events.times.tolist(), prompts, answers, strict=True)
            )
        ],
        duration_s=events.duration_s,
        provenance=RECORDED,
        keys=[events.names[function] for function in events.functions.tolist()],
        key_name="function",
        parameters={**events.parameters, "lengths": f"of the scenario {CHATBOT.name}"},
        warnings=events.warnings,
        sampled=events.sampled,
    )
