"""Any trace file as a Trace: libra's own format, or a published one that is recognised and converted on the fly."""

import csv
import json
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from libra.errors import LibraError
from workloads.formats import AdapterMapping, ReadOptions, TraceReader
from workloads.header import VERSION_FIELD
from workloads.registry import FORMATS
from workloads.sources import open_sources
from workloads.trace import Trace, read_trace


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
    """The keys of a JSON object or the columns of a CSV header on the first line; empty for anything else."""
    with closing(open_sources([path], options.max_bytes)) as sources:
        source = next(sources, None)
        line = "" if source is None else next(source.lines(), "")
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


def _recognised(path: Path, columns: Collection[str]) -> TraceReader:
    known = [
        (len(alternative), reader)
        for _, reader in FORMATS.items()
        for alternative in reader.required_columns
        if alternative <= set(columns)
    ]
    if not known:
        raise LibraError(
            f"{path}, line 1: neither a libra header nor a first row of a known format; "
            f"name one with libra workload convert --format ({', '.join(['libra', *FORMATS])})"
        )
    return max(known, key=lambda entry: entry[0])[1]
