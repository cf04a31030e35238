"""Rows of measurements on a GPU: their columns, and files that hold whatever was finished."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import typer

COLUMNS = (
    "kernel",
    "implementation",
    "dtype",
    "shape",
    "error",
    "error_limit",
    "check",
    "median_us",
    "floor_us",
    "floor_kind",
    "of_floor",
    "gb_per_s",
    "device",
    "command",
)
Row = dict[str, object]


def written(rows: Iterator[Row], out: Path | None) -> Iterator[Row]:
    """The rows, each printed and on disk before the next is begun."""
    if out is None:
        yield from map(_shown, rows)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = _writer(file)
        for row in rows:
            writer.writerow(row)
            file.flush()
            yield _shown(row)


def _writer(file: TextIO) -> "csv.DictWriter[str]":
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    return writer


def _shown(row: Row) -> Row:
    speed = f"{row['median_us']} us, {row['of_floor']} of its floor" if "median_us" in row else "not timed"
    name = f"{row['kernel']}, {row['implementation']}, {row['dtype']}"
    typer.echo(f"{name}: {row['shape']}: {row['check']} ({row['error']}), {speed}")
    return row


def check_row(kernel: str, implementation: str, dtype: str, shape: str, error: float, limit: float) -> Row:
    """A row before it is timed. An error of NaN fails."""
    return {
        "kernel": kernel,
        "implementation": implementation,
        "dtype": dtype,
        "shape": shape,
        "error": f"{error:.2e}",
        "error_limit": limit,
        "check": "ok" if error <= limit else "failed",
    }


def timed(row: Row, seconds: float, floor_s: float, kind: str, num_bytes: float = 0.0) -> Row:
    """The row with its time, the floor beneath it, and what bounds that."""
    return row | {
        "median_us": round(seconds * 1e6, 2),
        "floor_us": round(floor_s * 1e6, 2),
        "floor_kind": kind,
        "of_floor": round(floor_s / seconds, 3),
        "gb_per_s": round(num_bytes / seconds / 1e9, 1),
    }
