"""Any trace file as a Trace: libra's own format, or a published one that is recognised and converted on the fly."""

import json
from pathlib import Path

from libra.errors import LibraError
from workloads.files import text_lines
from workloads.formats import AdapterMapping, TraceReader
from workloads.header import VERSION_FIELD
from workloads.popularity import DEFAULT_POPULARITY
from workloads.registry import FORMATS
from workloads.trace import Trace, read_trace


def load_trace(path: Path, num_loras: int | None = None, popularity: str | None = None, seed: int = 0) -> Trace:
    """Reads ``path``, whatever its format.

    ``num_loras``, ``popularity`` and ``seed`` say how adapters are drawn for a published trace that has none; None
    means the defaults of AdapterMapping. A libra trace names its adapters itself: asking it for another number, or for
    a popularity, raises LibraError, as does a file of no known format.
    """
    row = _first_row(path)
    if VERSION_FIELD in row:
        return _own_trace(path, num_loras, popularity)
    return convert_trace(_recognised(path, row), path, num_loras, popularity, seed)


def convert_trace(
    reader: TraceReader, path: Path, num_loras: int | None = None, popularity: str | None = None, seed: int = 0
) -> Trace:
    """Converts a file of a known published format; see load_trace for the options."""
    count = AdapterMapping.num_adapters if num_loras is None else num_loras
    return reader.read(path, AdapterMapping(count, popularity or DEFAULT_POPULARITY, seed))


def _first_row(path: Path) -> dict[str, object]:
    line = next(text_lines(path), "")
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if type(row) is not dict:
        raise LibraError(f"{path}, line 1: not a JSON object; a trace is JSON lines (formats: {_format_names()})")
    return row


def _own_trace(path: Path, num_loras: int | None, popularity: str | None) -> Trace:
    if popularity is not None:
        raise LibraError(f"--popularity {popularity}: {path} names every request's adapter; leave out --popularity")
    trace = read_trace(path)
    if num_loras not in (None, len(trace.header.adapters)):
        raise LibraError(
            f"--num-loras {num_loras}: {path} has {len(trace.header.adapters)} adapters; leave out --num-loras"
        )
    return trace


def _recognised(path: Path, row: dict[str, object]) -> TraceReader:
    for name in FORMATS:
        reader = FORMATS[name]
        if reader.required_columns <= row.keys():
            return reader
    raise LibraError(f"{path}, line 1: neither a libra header nor a row of a known format ({_format_names()})")


def _format_names() -> str:
    return ", ".join(["libra", *FORMATS])
