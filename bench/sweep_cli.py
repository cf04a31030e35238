"""The command `libra sweep`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.exit_codes import INTERRUPTED
from bench.report_options import ReportFlag, wants_report

if TYPE_CHECKING:
    from bench.sweep import Cell
    from bench.sweep_file import SweepFile
    from bench.workers import Workers

RUNS = Path("runs")


def sweep(
    file: Annotated[
        Path,
        typer.Argument(help="TOML: options of libra bench, and under [grid] lists of those to vary.", metavar="FILE"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for sweep.csv and meta.json; a cell it holds is kept.  [default: runs/FILE]"),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Local processes.")] = 1,
    cluster: Annotated[
        str | None, typer.Option(help="Ray cluster to run on: ray://host:port, or local.", metavar="ADDRESS")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Run nothing: print the table of what there is.")] = False,
    metric: Annotated[str, typer.Option(help="Column of sweep.csv that the table shows.")] = "mean_ttft_ms",
    columns: Annotated[str, typer.Option(help="Key of the grid that goes across the table.")] = "policy",
    report: ReportFlag = None,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", help="No progress bar.")] = False,
) -> None:
    """Run a grid of settings, cell by cell; a sweep that was stopped goes on where it was."""
    from bench.output import prepare_output
    from bench.report.render import renew_report
    from bench.study_output import STUDY_SCHEMA
    from bench.sweep import plan_cells, read_cells
    from bench.sweep_file import read_sweep
    from bench.workers import Workers
    from libra.errors import LibraError, unknown

    workers = Workers(jobs, cluster)
    plan = read_sweep(file)
    if columns not in plan.grid:
        raise unknown("--columns", columns, plan.grid)
    cells = plan_cells(plan)
    out = out or RUNS / file.stem
    partial = False
    if not table:
        with_report = wants_report(report, out)
        prepare_output(out, STUDY_SCHEMA)
        partial = _run(plan, cells, out, workers, disable_tqdm)
        renew_report(out, with_report)
    if not read_cells(cells, out):
        if partial:
            raise typer.Exit(INTERRUPTED)
        raise LibraError(f"{out} holds no cell of {file}; leave out --table to run it")
    _report(plan, cells, out, metric, columns)
    if partial:
        raise typer.Exit(INTERRUPTED)


def _run(plan: "SweepFile", cells: "list[Cell]", out: Path, workers: "Workers", disable_tqdm: bool) -> bool:
    """Runs what is missing and writes the tables anew; True when an interrupt came before the end."""
    from bench.progress import task_progress
    from bench.sweep import is_done, run_cells, write_sweep

    # At once, so that the directory of a sweep that is killed is known for one.
    write_sweep(plan, cells, out, partial=True)
    names = {cell.key: " ".join(cell.values.values()) for cell in cells}
    num_done = sum(is_done(cell, out) for cell in cells)
    partial = False
    with task_progress(len(cells), "cells", done=num_done, disable_tqdm=disable_tqdm) as progress:
        try:
            for key in run_cells(cells, out, workers):
                progress.advance(names[key])
        except KeyboardInterrupt:
            partial = True
    write_sweep(plan, cells, out, partial)
    return partial


def _report(plan: "SweepFile", cells: "list[Cell]", out: Path, metric: str, columns: str) -> None:
    """Prints the table, and ends stdout on one JSON line."""
    from rich.console import Console

    from bench.documents import to_json
    from bench.sweep import FAULT, read_cells, revisions, sweep_rows
    from bench.sweep_table import pivot, pivot_table
    from bench.table import print_safely

    documents = read_cells(cells, out)
    rows = sweep_rows(cells, documents)
    if len(revisions(documents)) > 1:
        typer.echo(f"warning: {out} mixes cells of {len(revisions(documents))} revisions of libra", err=True)
    num_faults = sum(row[FAULT] is not None for row in rows)
    if num_faults < len(rows):
        shown = pivot(plan.grid, rows, metric, columns)
        print_safely(Console(), pivot_table(shown, metric, f"{plan.path.name}: {len(rows)} of {len(cells)} cells"))
    line = {"schema_version": 1, "cells": len(cells), "done": len(rows), "faults": num_faults, "out": str(out)}
    typer.echo(to_json(line))
