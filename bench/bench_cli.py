"""The command `libra bench`."""

import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.bench_options import takes_settings
from bench.engine_options import WORKLOAD
from bench.exit_codes import INTERRUPTED
from bench.interrupts import Interrupts
from bench.report_options import ReportFlag, wants_report
from bench.scenario import SCENARIO_HELP
from bench.settings import BenchSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.metrics import PolicySummary
    from bench.run import BenchOutcome

CANDIDATES = "candidates.csv"


@takes_settings()
def bench(
    settings: BenchSettings,
    # ScenarioCommand reads the file; its options arrive in the settings.
    scenario: Annotated[str | None, typer.Option(help=SCENARIO_HELP, rich_help_panel=WORKLOAD)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for rows.csv, summary.csv, timeline.parquet, meta.json, ...")
    ] = BenchSettings.out,
    report: ReportFlag = None,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", help="No progress bar.")] = False,
) -> None:
    """Replay one workload against several policies and say who wins."""
    from bench.output import prepare_output
    from bench.run import run_bench

    with_report = wants_report(report, out)
    if out is not None:
        prepare_output(out)
    settings = replace(settings, out=out)
    outcome = run_bench(settings, disable_tqdm=disable_tqdm)
    with Interrupts() as interrupts:
        interrupts.hold()  # a second Ctrl-C must not lose what the first has left
        _report(settings, outcome, with_report)
    if outcome.partial:
        raise typer.Exit(INTERRUPTED)


def _report(settings: BenchSettings, outcome: "BenchOutcome", with_report: bool) -> None:
    """Writes the files, prints the table, and ends stdout on one JSON line. What is printed is printed also where the
    files cannot be written."""
    from bench.documents import RunInfo, summary_row
    from bench.output import csv_text, write_run
    from bench.report.render import renew_report

    for warning in outcome.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for note in outcome.notes:
        typer.echo(f"note: {note}", err=True)
    summaries = outcome.summaries()
    info = RunInfo(
        command=shlex.join(["libra", *sys.argv[1:]]),
        conditions=outcome.conditions,
        settings=_plain(asdict(settings)) | {"policies": {p.name: p.settings() for p in outcome.policies}},
        trace_sha256=outcome.trace_sha256,
        profile=outcome.profile,
        warnings=(*outcome.warnings, *outcome.notes),
        objectives_ms=outcome.options.objectives.limits(),
    )
    try:
        if settings.out is not None:
            rows = [summary_row(one) for one in outcome.candidates]
            extra = {CANDIDATES: csv_text(rows)} if rows else {}
            write_run(settings.out, outcome.results, summaries, info, partial=outcome.partial, extra=extra)
            renew_report(settings.out, with_report)
    finally:
        _print(settings, outcome, summaries)


def _print(settings: BenchSettings, outcome: "BenchOutcome", summaries: "Sequence[PolicySummary]") -> None:
    from rich.console import Console

    from bench.adapter_table import adapter_table
    from bench.table import order_by_ttft, print_comparison, print_safely, summary_line

    console = Console()
    print_comparison(console, summaries, outcome.conditions, baseline=settings.baseline, partial=outcome.partial)
    worst = adapter_table(order_by_ttft(summaries)[0])
    if worst is not None:
        print_safely(console, worst)
    line = summary_line(
        summaries, outcome.conditions, baseline=settings.baseline, partial=outcome.partial, out=settings.out
    )
    typer.echo(line)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
