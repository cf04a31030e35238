"""Any trace file as a Trace: libra's own format, or a published one that is recognised and converted on the fly."""

import csv
import json
from collections.abc import Collection, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from libra.errors import LibraError
from workloads.formats import AdapterMapping, ReadOptions, TraceReader
from workloads.header import VERSION_FIELD
from workloads.registry import FORMATS
from workloads.sources import open_sources
from workloads.trace import Trace, read_trace

# Of a folder or an archive: a licence may come before the first trace.
MAX_FILES_LOOKED_AT = 16


def load_trace(path: Path, num_loras: int | None = None, popularity: str | None = None, seed: int = 0) -> Trace:
    """Reads ``path``, whatever its format.

    ``num_loras``, ``popularity`` and ``seed`` say how a published trace gets its adapters (AdapterMapping). A libra
    trace names its adapters itself: asking it for another number, or for a popularity, raises LibraError, as does a
    file of no known format.
    """
    options = ReadOptions(AdapterMapping(num_loras, popularity), seed)
    columns = _first_columns(path, options)
    if VERSION_FIELD in columns:
        return _own_trace(path, num_loras, popularity)
    return _recognised(path, columns).read([path], options)


def convert_traces(paths: Sequence[Path], options: ReadOptions, trace_format: str | None = None) -> Trace:
    """Converts published files of one format, recognised from the first row where it is None. Raises LibraError."""
    if trace_format is not None:
        reader = FORMATS[trace_format]
    else:
        columns = _first_columns(paths[0], options)
        if VERSION_FIELD in columns:
            raise LibraError(f"{paths[0]} is a libra trace already; there is nothing to convert")
        reader = _recognised(paths[0], columns)
    trace = reader.read(paths, options)
    _refuse_unused(trace, options, reader.name)
    return trace


def _refuse_unused(trace: Trace, options: ReadOptions, trace_format: str) -> None:
    """Raises LibraError for options that the conversion had no use for: what it used stands in the header."""
    default, noted = ReadOptions(), trace.header.parameters.keys()
    for flags, given, traces in (
        ("--arrivals", options.arrivals is not None, {"arrivals"}),
        ("--burstiness", options.burstiness != default.burstiness, {"arrivals", "burstiness_in_minute"}),
        ("--tokenizer and --bytes-per-token", options.text != default.text, {"bytes_per_token", "tokenizer"}),
    ):
        if given and not traces & noted:
            raise LibraError(f"{flags} means nothing for this {trace_format} source; leave it out")


def _first_columns(path: Path, options: ReadOptions) -> Collection[str]:
    """What the first line names in the first file behind ``path`` that is a trace; empty where none is."""
    with closing(open_sources([path], options.max_bytes)) as sources:
        for source in islice(sources, MAX_FILES_LOOKED_AT):
            columns = _columns(next(source.lines(), ""))
            if VERSION_FIELD in columns or _readers(columns):
                return columns
    return ()


def _columns(line: str) -> Collection[str]:
    """The keys of a JSON object or the columns of a CSV header; empty for anything else."""
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return ()
        return row.keys() if type(row) is dict else ()
    try:
        return [name.strip() for name in next(csv.reader([line]), [])]
    except csv.Error:
        return ()


def _own_trace(path: Path, num_loras: int | None, popularity: str | None) -> Trace:
    if popularity is not None:
        raise LibraError(f"--popularity {popularity}: {path} names every request's adapter; leave out --popularity")
    trace = read_trace(path)
    if num_loras not in (None, len(trace.header.adapters)):
        raise LibraError(
            f"--num-loras {num_loras}: {path} has {len(trace.header.adapters)} adapters; leave out --num-loras"
        )
    return trace


def _readers(columns: Collection[str]) -> list[TraceReader]:
    """The formats whose columns these are, those that ask for the most columns last."""
    known = [
        (len(alternative), reader)
        for _, reader in FORMATS.items()
        for alternative in reader.required_columns
        if alternative <= set(columns)
    ]
    return [reader for _, reader in sorted(known, key=lambda entry: entry[0])]


def _recognised(path: Path, columns: Collection[str]) -> TraceReader:
    known = _readers(columns)
    if not known:
        where = f"{path}: no file in it begins with" if path.is_dir() else f"{path}, line 1: neither"
        raise LibraError(
            f"{where} a libra header {'or' if path.is_dir() else 'nor'} a first row of a known format; "
            f"name one with libra workload convert --format ({', '.join(FORMATS)})"
        )
    return known[-1]
