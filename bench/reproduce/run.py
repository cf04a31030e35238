"""Runs what the chosen figures need and the store lacks: first searches of peaks, then what refers to them."""

from collections.abc import Sequence
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
        # Each round may tell what else there is to run.
        while missing := [cell for cell in plan_cells(study, figures) if cell not in study.store]:
            num_run += _run(study, missing, workers, disable_tqdm)
        partial = False
    except KeyboardInterrupt:
        partial = True
    cells = plan_cells(study, figures)
    study.store.arrange(cells)
    return Outcome([row for figure in figures for row in figure.rows(study)], len(cells), num_run, partial)


def plan_cells(study: Study, figures: Sequence[Figure]) -> list[Cell]:
    """All cells that are known, first the searches that say what load 1 is: runs are known when these have ended."""
    references = [cell for figure in figures for case in figure.cases(study) for cell in study.reference_cells(case)]
    cells = [cell for figure in figures for cell in figure.cells(study)]
    return list(dict.fromkeys([*references, *cells]))


def _run(study: Study, missing: Sequence[Cell], workers: Workers, disable_tqdm: bool) -> int:
    commit = _commit()
    noun = "searches of peaks" if all(cell.kind == "peak" for cell in missing) else "cells"
    with task_progress(len(missing), noun, disable_tqdm=disable_tqdm) as progress:
        for row in workers.run(run_cell, _mixed(missing)):
            study.store.add({**row, "commit": commit})
            progress.advance(f"{row['workload']} {row['model']} {row['policy']}")
    return len(missing)


def _mixed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in an order that has nothing to do with their cost, so that the time left is told well from the start;
    the same order every time."""
    return sorted(cells, key=lambda cell: cell.key)


def _commit() -> str:
    revision = source_revision()
    return f"{revision['commit'] or 'unknown'}{'+changes' if revision['dirty'] else ''}"
