"""Small traces and files for the tests of workloads."""

import json
from pathlib import Path
from typing import Any

from workloads.columns import trace_columns
from workloads.prefixes import matched_tokens, prefix_tree
from workloads.statistics import TraceStatistics, samples_of, statistics_of
from workloads.trace import Trace

HEADER: dict[str, Any] = {
    "libra_trace": 1,
    "name": "tests only",
    "seed": 0,
    "adapter_source": "generated",
    "arrival_source": "generated",
    "length_source": "generated",
    "prefix_source": "generated",
    "duration_s": 10.0,
}


def row(identifier: int = 0, **changes: Any) -> dict[str, Any]:
    """A valid request row with some fields changed; a field set to ... is left out."""
    fields = {
        "id": identifier,
        "arrival_s": float(identifier),
        "adapter": "a",
        "session": "s0",
        "prompt": [["a.sys", 0, 64], [f"s0.t{identifier}", 0, 8]],
        "output_tokens": 4,
        "output": f"s0.o{identifier}",
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not ...}


def write_rows(path: Path, *rows: dict[str, Any], header: dict[str, Any] | None = None) -> Path:
    """A trace file of these rows, valid or not."""
    lines = [json.dumps(entry) + "\n" for entry in (HEADER if header is None else header, *rows)]
    path.write_text("".join(lines))
    return path


def write_function_counts(path: Path, counts: list[list[int]]) -> Path:
    """An Azure Functions file with one function per row of ``counts``."""
    minutes = ",".join(f"minute_{number}" for number in range(1, len(counts[0]) + 1))
    lines = [f"HashFunction,HashOwner,HashApp,{minutes}\n"]
    lines += [f"f{number},o,a,{','.join(map(str, row))}\n" for number, row in enumerate(counts)]
    path.write_text("".join(lines))
    return path


def mooncake_row(timestamp_ms: float, blocks: list[int], tokens: int | None = None, **changes: Any) -> dict[str, Any]:
    """A row of Mooncake's format; the last block is partial unless ``tokens`` says otherwise."""
    length = 512 * len(blocks) - 100 if tokens is None else tokens
    return {"timestamp": timestamp_ms, "input_length": length, "output_length": 7, "hash_ids": blocks, **changes}


def write_mooncake(path: Path, *rows: dict[str, Any]) -> Path:
    """A Mooncake file of these rows, valid or not."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    return path


def trace_statistics(trace: Trace) -> TraceStatistics:
    """The statistics of ``trace``, as `libra workload inspect` shows them."""
    columns = trace_columns(trace.requests)
    return statistics_of(trace, columns, samples_of(columns, matched_tokens(prefix_tree(columns))))
