"""The cells that have been run: cells.csv, one row each, written when the cell ends."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.documents import finite
from bench.reproduce.cells import Cell
from bench.reproduce.probe import OVERHEADS
from bench.reproduce.simulate import METRICS
from bench.study_output import replace_text
from libra.errors import LibraError

CELLS_CSV = "cells.csv"
TEXT_COLUMNS = ("key", "kind", "workload", "model", "popularity", "arrivals", "cache", "host_gib", "policy", "timeline")
FIGURES = (
    "saturated",
    "cache_gib",
    "working_set_gib",
    "peak_load_rps",
    "fails_at_rps",
    "num_probes",
    *METRICS,
    *OVERHEADS,
)
_ABOUT = (
    *TEXT_COLUMNS[:5],
    "num_loras",
    *TEXT_COLUMNS[5:9],
    "link_gbps",
    "block_tokens",
    "seed",
    "rate",
    "requests",
    "least_s",
)
COLUMNS = (*_ABOUT, "fault", *FIGURES, "timeline", "cpu_s", "commit")

Result = Mapping[str, Any]


class Store:
    """Results by key, in memory and in ``path``. A row that a kill cut short is dropped when the file is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, str]] = {}
        if path.is_file():
            self._read()

    def __contains__(self, cell: Cell) -> bool:
        return cell.key in self._rows

    def get(self, cell: Cell) -> Result | None:
        """The figures of a cell, None where it has not been run."""
        row = self._rows.get(cell.key)
        return None if row is None else {name: _value(name, text) for name, text in row.items()}

    def add(self, result: Result) -> None:
        """Appends one row; it is on disk when this returns. Raises LibraError."""
        row = {name: _text(result.get(name)) for name in COLUMNS}
        is_new = not self._rows and not self.path.is_file()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_csv([row], header=is_new))
        except OSError as error:
            raise LibraError(f"{self.path}: cannot be written ({error.strerror}); name another --out") from error
        self._rows[row["key"]] = row

    def arrange(self, cells: Iterable[Cell]) -> None:
        """Rewrites the file with the rows of ``cells`` first, in their order: they end in any."""
        planned = [cell.key for cell in cells if cell in self]
        keys = dict.fromkeys([*planned, *self._rows])
        self._rows = {key: self._rows[key] for key in keys}
        replace_text(self.path, _csv(self._rows.values(), header=True))

    def commits(self) -> set[str]:
        """The revisions of libra that the cells were run by."""
        return {row["commit"] for row in self._rows.values()}

    def cpu_s(self) -> float:
        """What all cells took together."""
        return sum(float(row["cpu_s"] or 0.0) for row in self._rows.values())

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.reader(io.StringIO(whole)))
        if rows and tuple(rows[0]) != COLUMNS:
            raise LibraError(
                f"{self.path}: has other columns than this libra writes; move it away or name another --out"
            )
        for values in rows[1:]:
            if len(values) == len(COLUMNS):
                row = dict(zip(COLUMNS, values, strict=True))
                self._rows[row["key"]] = row
        if whole != text:
            replace_text(self.path, whole)


def _text(value: Any) -> str:
    """A cell of the CSV: figures with seven digits, nothing for None."""
    value = finite(value)
    if isinstance(value, float):
        return f"{value:.7g}"
    return "" if value is None else str(value)


def _value(name: str, text: str) -> Any:
    if name in TEXT_COLUMNS or name in ("fault", "commit"):
        return text
    if text in ("True", "False"):
        return text == "True"
    return float(text) if text else None


def _csv(rows: Iterable[Mapping[str, str]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
