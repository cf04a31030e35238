"""A grid of runs from a TOML file: one cell per combination, each written once, so that a killed sweep goes on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from bench.documents import finite, summary_row, to_json
from bench.machine import source_revision
from bench.oracle import find_choice
from bench.output import file_digest
from bench.run import Ground, run_bench
from bench.settings import BenchSettings
from bench.study_output import replace_text, study_meta, write_study
from bench.sweep_file import SweepFile
from bench.workers import Workers
from libra.errors import LibraError

CELLS = "cells"
SWEEP_CSV = "sweep.csv"
FAULT = "fault"
# Of a single run's summary, what the cell's own columns say, or what is the same in all.
_LEFT_OUT = ("policy", "seeds")


@dataclass(frozen=True)
class Cell:
    """One run. ``values``: what the grid varies, by option name; ``key`` names it among all cells ever: a digest of all
    its options and of the files they name. ``ground_key``: the same of all but its policy."""

    key: str
    ground_key: str
    values: Mapping[str, str]
    settings: BenchSettings


def plan_cells(sweep: SweepFile) -> list[Cell]:
    """All cells in the order of the grid, the last key fastest. Raises LibraError before anything runs."""
    cells = []
    for combination in product(*sweep.grid.values()):
        values = dict(zip(sweep.grid, combination, strict=True))
        settings = sweep.settings(values)
        if len(settings.policies) != 1:
            raise LibraError(f"{sweep.path}: policy: list the policies in [grid], one to a cell")
        find_choice(settings.policies[0])
        options = sweep.options(values)
        shared = {name: value for name, value in options.items() if name != "policy"}
        cells.append(Cell(_key(options, settings), _key(shared, settings), values, settings))
    return cells


def run_cell(cell: Cell) -> dict[str, Any]:
    """Runs a cell and returns its document. A cell that cannot run, such as a cache too small for its policy, says so
    in its row. Raises KeyboardInterrupt when the run was interrupted."""
    document = {"key": cell.key, "source": source_revision(), "trace_sha256": None, "row": dict[str, Any]()}
    try:
        outcome = run_bench(cell.settings, disable_tqdm=True, ground=_ground(cell))
    except LibraError as fault:
        return document | {"row": {FAULT: str(fault)}}
    if outcome.partial:
        raise KeyboardInterrupt
    (summary,) = outcome.summaries()
    row = {name: value for name, value in summary_row(summary).items() if name not in _LEFT_OUT}
    about = {"cache_gib": outcome.conditions.cache_gib, "working_set_gib": outcome.conditions.working_set_gib}
    chosen = outcome.results[0].extra.get("chosen")
    row = {FAULT: None, **about, **({} if chosen is None else {"chosen": chosen}), **row}
    return document | {"trace_sha256": next(iter(outcome.trace_sha256.values())), "row": finite(row)}


def _ground(cell: Cell) -> Ground:
    """What the cell shares with those that differ from it in their policy alone."""
    shared = replace(cell.settings, policies=BenchSettings.policies, baseline=None, out=None)
    return _cached_ground(cell.ground_key, shared)


@lru_cache(maxsize=1)
def _cached_ground(key: str, settings: BenchSettings) -> Ground:
    """The last one is kept: cells that share it come one after the other. ``key`` tells of files that have changed."""
    return Ground.of(settings)


def is_done(cell: Cell, out: Path) -> bool:
    """Whether ``out`` holds the cell."""
    return _path(out, cell.key).is_file()


def run_cells(cells: Sequence[Cell], out: Path, workers: Workers) -> Iterator[str]:
    """Runs the cells that ``out`` does not hold yet and writes each when it ends; yields its key."""
    together: dict[str, list[Cell]] = {}
    for cell in cells:
        if not is_done(cell, out):
            together.setdefault(cell.ground_key, []).append(cell)
    missing = [cell for group in together.values() for cell in group]
    for document in workers.run(run_cell, missing):
        replace_text(_path(out, document["key"]), to_json(document, indent=1) + "\n")
        yield document["key"]


def read_cells(cells: Sequence[Cell], out: Path) -> list[dict[str, Any]]:
    """The documents of those cells that have been run, in the order of ``cells``. Raises LibraError."""
    documents = []
    for cell in cells:
        if not is_done(cell, out):
            continue
        path = _path(out, cell.key)
        try:
            documents.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise LibraError(f"{path}: cannot be read ({error}); delete it, and the sweep runs it again") from None
    return documents


def sweep_rows(cells: Sequence[Cell], documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per cell that has been run: what the grid varies, then its figures."""
    values = {cell.key: cell.values for cell in cells}
    return [{**values[document["key"]], **document["row"]} for document in documents]


def revisions(documents: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The revisions of libra that the cells were run by."""
    return list({to_json(document["source"]): document["source"] for document in documents}.values())


def write_sweep(sweep: SweepFile, cells: Sequence[Cell], out: Path, partial: bool) -> None:
    """Writes sweep.csv and meta.json from the cells that ``out`` holds. Raises LibraError."""
    documents = read_cells(cells, out)
    rows = sweep_rows(cells, documents)
    details = {
        "fixed": sweep.fixed,
        "grid": sweep.grid,
        "num_cells": len(cells),
        "num_done": len(documents),
        "trace_sha256": sorted({document["trace_sha256"] for document in documents if document["trace_sha256"]}),
        "revisions": revisions(documents),
    }
    write_study(out, {SWEEP_CSV: rows} if rows else {}, study_meta("sweep", partial, details))


def _path(out: Path, key: str) -> Path:
    return out / CELLS / f"{key}.json"


def _key(options: Mapping[str, str], settings: BenchSettings) -> str:
    """A digest of the options by name and of the files they name."""
    policy_file = Path(settings.policies[0].rpartition(":")[0])
    files = [path for path in (settings.trace, settings.profile, policy_file) if path is not None and path.is_file()]
    text = json.dumps([sorted(options.items()), [file_digest(path) for path in files]])
    return sha256(text.encode()).hexdigest()[:16]
