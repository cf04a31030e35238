"""The directory of a reproduction, and the check that its README still says what its rows do."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.output import META, csv_text
from bench.reproduce.figure import Figure
from bench.reproduce.readme import readme_text
from bench.reproduce.registry import ALL_FIGURES
from bench.reproduce.rows import FIELDS, FigureRow
from bench.reproduce.rules import DEVICE
from bench.reproduce.run import Outcome
from bench.reproduce.study import Study
from bench.study_output import replace_text, study_meta, write_study
from libra.errors import LibraError

FIGURES_CSV, README = "figures.csv", "README.md"
_NUMBERS = ("ours", "low", "high", "paper")


def write_reproduction(path: Path, study: Study, figures: Sequence[Figure], outcome: Outcome) -> None:
    """Writes figures.csv, README.md and, last, meta.json; cells.csv is there. Raises LibraError."""
    details = {
        "scale": {name: value for name, value in asdict(study.scale).items() if not isinstance(value, tuple)},
        "figures": [figure.number for figure in figures],
        "device": DEVICE,
        "num_cells": outcome.num_cells,
        "cpu_s": round(study.store.cpu_s(), 1),
        "revisions": sorted(study.store.commits()),
    }
    meta = study_meta("reproduce", outcome.partial, details)
    text = csv_text([row.as_dict() for row in outcome.rows]) if outcome.rows else ""
    replace_text(path / FIGURES_CSV, text)
    # From the rows as they were written, so that a check finds the same text.
    replace_text(path / README, readme_text(read_rows(path / FIGURES_CSV), figures, meta))
    write_study(path, {}, meta)


def read_rows(path: Path) -> list[FigureRow]:
    """The rows of a figures.csv. Raises LibraError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_row(values) for values in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise LibraError(f"{path}: cannot be read as rows of figures ({error!r}); run libra reproduce again") from None


def rendered(path: Path) -> str:
    """What the README of ``path`` must say by its figures.csv and meta.json. Raises LibraError."""
    try:
        meta: dict[str, Any] = json.loads((path / META).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LibraError(f"{path}: is no reproduction ({error}); name a directory of libra reproduce") from None
    if meta.get("study") != "reproduce":
        raise LibraError(f"{path / META}: is of another study; name a directory of libra reproduce")
    figures = [figure for figure in ALL_FIGURES if figure.number in meta["figures"]]
    return readme_text(read_rows(path / FIGURES_CSV), figures, meta)


def check_reproduction(path: Path) -> int:
    """How many rows the README of ``path`` was made from. Raises LibraError where it says anything else."""
    expected = rendered(path)
    try:
        written = (path / README).read_text(encoding="utf-8")
    except OSError as error:
        raise LibraError(f"{path / README}: {error.strerror}; run libra reproduce again") from None
    if written != expected:
        number, line = _first_difference(written, expected)
        raise LibraError(f"{path / README}: line {number} is not what the rows say ({line}); run libra reproduce again")
    return len(read_rows(path / FIGURES_CSV))


def _row(values: Mapping[str, str]) -> FigureRow:
    fields: dict[str, Any] = {name: values[name] for name in FIELDS}
    fields |= {name: float(values[name]) if values[name] else None for name in _NUMBERS}
    return FigureRow(**fields)


def _first_difference(written: str, expected: str) -> tuple[int, str]:
    ours, theirs = written.splitlines(), expected.splitlines()
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False), start=1):
        if a != b:
            return number, f"{a[:60]!r} for {b[:60]!r}"
    return min(len(ours), len(theirs)) + 1, "one is longer"
