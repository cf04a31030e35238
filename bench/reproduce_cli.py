"""The command `libra reproduce`."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.exit_codes import INTERRUPTED

if TYPE_CHECKING:
    from bench.reproduce.figure import Figure
    from bench.reproduce.rules import Scale
    from bench.reproduce.run import Outcome
    from bench.reproduce.study import Study

OUT = Path("runs/reproduce")


def reproduce(
    quick: Annotated[bool, typer.Option("--quick", help="A part of the grid: minutes on two cores.")] = False,
    full: Annotated[bool, typer.Option("--full", help="The whole grid, long runs, five seeds: hours.")] = False,
    figure: Annotated[
        list[str] | None,
        typer.Option(help="Only this figure, such as 11 or controls; may be given again.", metavar="N"),
    ] = None,
    gain: Annotated[
        bool, typer.Option("--gain", help="libra against fastlibra over a grid, in place of the paper's figures.")
    ] = False,
    trace: Annotated[
        list[Path] | None,
        typer.Option(help="With --gain: the requests of this file as well; may be given again.", metavar="FILE"),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Directory for cells.csv, figures.csv, README.md; a cell it holds is kept.")
    ] = OUT,
    jobs: Annotated[
        int | None, typer.Option(help="Local processes.  [default: one per core, 1 without joblib]")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Ray cluster to run on: ray://host:port, or local.", metavar="ADDRESS")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Run nothing: check that this directory's README says what its rows do.")
    ] = None,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", help="No progress bar.")] = False,
) -> None:
    """Reproduce the paper's evaluation figure by figure, beside its numbers; a run that was stopped goes on."""
    from bench.machine import num_cores
    from bench.output import prepare_output
    from bench.reproduce.output import check_reproduction, write_reproduction
    from bench.reproduce.run import reproduce as run
    from bench.reproduce.store import CELLS_CSV, Store
    from bench.reproduce.study import Study
    from bench.study_output import STUDY_SCHEMA, study_meta, write_study
    from bench.workers import Workers

    if check is not None:
        typer.echo(f"{check}: README.md says what its {check_reproduction(check)} rows do")
        return
    figures, scale = _choose(quick, full, figure or [], gain, trace or [])
    one_per_core = cluster is None and find_spec("joblib") is not None
    workers = Workers(jobs or (num_cores() if one_per_core else 1), cluster)
    prepare_output(out, STUDY_SCHEMA)
    study = Study(scale, Store(out / CELLS_CSV))
    # At once, so that the directory of a run that is killed is known for one.
    write_study(out, {}, study_meta("reproduce", True, {"scale": {"name": scale.name}, "figures": []}))
    outcome = run(study, figures, workers, disable_tqdm=disable_tqdm)
    write_reproduction(out, study, figures, outcome)
    _report(out, study, figures, outcome)
    if outcome.partial:
        raise typer.Exit(INTERRUPTED)


def _choose(
    quick: bool, full: bool, numbers: list[str], gain: bool, traces: list[Path]
) -> "tuple[list[Figure], Scale]":
    """What is run. Raises LibraError where the flags do not go together."""
    from bench.reproduce.gain import Gain
    from bench.reproduce.registry import choose_figures
    from bench.reproduce.rules import GAIN, choose_scale
    from libra.errors import LibraError

    if not gain and traces:
        raise LibraError("--trace adds requests to --gain: give both")
    if not gain:
        return choose_figures(numbers), choose_scale(quick, full)
    if quick or full or numbers:
        raise LibraError("--gain is a study of its own: leave out --quick, --full and --figure")
    missing = next((path for path in traces if not path.is_file()), None)
    if missing is not None:
        raise LibraError(f"--trace {missing}: is no file; name a trace")
    return [Gain(tuple(path.resolve() for path in traces))], GAIN


def _report(out: Path, study: "Study", figures: "list[Figure]", outcome: "Outcome") -> None:
    """Prints the tables, and ends stdout on one JSON line."""
    from rich.console import Console

    from bench.documents import to_json
    from bench.reproduce.table import figures_table
    from bench.table import print_safely

    commits = study.store.commits()
    if len(commits) > 1:
        typer.echo(f"warning: {out} mixes cells of {len(commits)} revisions of libra", err=True)
    console = Console()
    print_safely(console, figures_table(outcome.rows, figures, study.scale, outcome.partial, console.width))
    verdicts = [row.same_sign for row in outcome.rows if row.same_sign]
    line = {
        "schema_version": 1,
        "scale": study.scale.name,
        "partial": outcome.partial,
        "cells": outcome.num_cells,
        "cells_run": outcome.num_run,
        "same_sign": {verdict: verdicts.count(verdict) for verdict in ("yes", "no", "none", "unclear")},
        "out": str(out),
    }
    typer.echo(to_json(line))
