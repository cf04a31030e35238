"""Runs what the chosen figures need and the store lacks: first the peaks that set the loads, then everything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.machine import source_revision
from bench.progress import task_progress
from bench.reproduce.cells import Cell
from bench.reproduce.figure import Figure
from bench.reproduce.rows import FigureRow
from bench.reproduce.simulate import run_cell
from bench.reproduce.study import Study
from bench.workers import Workers


@dataclass
class Outcome:
    """``partial``: an interrupt came before the last cell. ``num_cells``: those that the figures need."""

    rows: list[FigureRow]
    num_cells: int
    num_run: int
    partial: bool


def reproduce(study: Study, figures: Sequence[Figure], workers: Workers, *, disable_tqdm: bool = False) -> Outcome:
    """Runs the cells and makes the rows. Every cell is in the store when it ends, so that a killed run goes on."""
    num_run = 0
    try:
        for title, plan in (("loads", plan_loads), ("cells", plan_cells)):
            num_run += _run(study, plan(study, figures), workers, title, disable_tqdm)
        partial = False
    except KeyboardInterrupt:
        partial = True
    cells = plan_cells(study, figures)
    study.store.arrange(cells)
    return Outcome([row for figure in figures for row in figure.rows(study)], len(cells), num_run, partial)


def plan_loads(study: Study, figures: Sequence[Figure]) -> list[Cell]:
    """The searches that say what load 1 is."""
    return _distinct(cell for figure in figures for case in figure.cases(study) for cell in study.reference_cells(case))


def plan_cells(study: Study, figures: Sequence[Figure]) -> list[Cell]:
    """All cells, those of ``plan_loads`` first; runs are known when these have been run."""
    return _distinct([*plan_loads(study, figures), *(cell for figure in figures for cell in figure.cells(study))])


def _run(study: Study, cells: Sequence[Cell], workers: Workers, title: str, disable_tqdm: bool) -> int:
    missing = [cell for cell in cells if cell not in study.store]
    if not missing:
        return 0
    commit = _commit()
    with task_progress(len(cells), title, done=len(cells) - len(missing), disable_tqdm=disable_tqdm) as progress:
        for row in workers.run(run_cell, _mixed(missing)):
            study.store.add({**row, "commit": commit})
            progress.advance(f"{row['workload']} {row['model']} {row['policy']}")
    return len(missing)


def _mixed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in an order that has nothing to do with their cost, so that the time left is told well from the start;
    the same order every time."""
    return sorted(cells, key=lambda cell: cell.key)


def _distinct(cells: Iterable[Cell]) -> list[Cell]:
    return list(dict.fromkeys(cells))


def _commit() -> str:
    revision = source_revision()
    return f"{revision['commit'] or 'unknown'}{'+changes' if revision['dirty'] else ''}"
