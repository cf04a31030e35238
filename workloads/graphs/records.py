"""Records of calls in the schema of Alibaba's cluster-trace-microservices-v2021 (MS_CallGraph_Table)."""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from workloads.rows import MAX_SECONDS, FieldFault
from workloads.sources import open_sources
from workloads.tables import csv_rows, finite_number

COLUMNS = ("traceid", "timestamp", "rpcid", "um", "rpctype", "dm", "interface", "rt")
UNKNOWN = frozenset({"", "(?)", "?", "nan", "unknown", "unavailable"})
RPCID = re.compile(r"\d+(\.\d+)*")


class Record(NamedTuple):
    """One side's record of a call. Names are "" where the row does not know them, ``rt_ms`` 0 where it has none.

    ``rpcid`` 0.1.2 is the second call made by whoever was called in 0.1. The caller's ``rt_ms`` is positive, the
    callee's record of the same call has a negative one.
    """

    trace: str
    rpcid: str
    caller: str
    callee: str
    interface: str
    kind: str
    rt_ms: float


def read_records(paths: Sequence[Path], max_bytes: int, counts: Counter[str]) -> Iterator[Record]:
    """The rows of CSV files, compressed or not, that say which call they are of. Adds to ``counts``.

    Raises LibraError, naming file, row and column, for a file that is not of the schema.
    """
    for source in open_sources(paths, max_bytes, (".csv",)):
        for record in csv_rows(source, COLUMNS, _record):
            counts["rows"] += 1
            if not record.trace or not RPCID.fullmatch(record.rpcid):
                counts["rows_without_trace_or_rpcid"] += 1
                continue
            counts["mq_rows"] += record.kind == "mq"
            yield record


def _record(fields: Sequence[str]) -> Record:
    trace, timestamp, rpcid, caller, kind, callee, interface, rt = fields
    finite_number("timestamp", timestamp)
    if not kind.strip():
        raise FieldFault("rpctype", "is empty; it says how the callee is called, such as rpc or mc")
    rt_ms = finite_number("rt", rt, -MAX_SECONDS) if _name(rt) else 0.0  # only tells the two sides' records apart
    names = _name(trace), sys.intern(rpcid.strip()), _name(caller), _name(callee), _name(interface)
    return Record(*names, sys.intern(kind.strip().lower()), rt_ms)


def _name(text: str) -> str:
    """The name, one object however often it occurs, or "" for what stands for none."""
    stripped = text.strip()
    return "" if stripped.lower() in UNKNOWN else sys.intern(stripped)
