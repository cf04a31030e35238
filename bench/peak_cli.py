"""The command `libra peak`."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.bench_options import takes_settings
from bench.engine_options import WORKLOAD
from bench.exit_codes import INTERRUPTED
from bench.report_options import ReportFlag, wants_report
from bench.scenario import SCENARIO_HELP
from bench.settings import BenchSettings

if TYPE_CHECKING:
    from bench.peak import Peak, PeakSearch
    from bench.workers import Workers

SEEDS = 5
# A sixth of the paper's runs: a rate that saturates a server shows it within minutes.
DURATION_S = 300.0
# What a peak has no use for, or says in its own way.
NOT_SHARED = ("repeats", "duration", "goodput", "baseline")


@takes_settings(without=NOT_SHARED)
def peak(
    settings: BenchSettings,
    scenario: Annotated[str | None, typer.Option(help=SCENARIO_HELP, rich_help_panel=WORKLOAD)] = None,
    duration: Annotated[
        float, typer.Option(help="Seconds of arrivals in a run: longer runs see slower queues grow.")
    ] = DURATION_S,
    repeats: Annotated[int, typer.Option(help="Number of seeds: seed, seed + 1, ...")] = SEEDS,
    slo: Annotated[
        str, typer.Option(help='Limits on mean latencies in ms, such as "ttft:500 tpot:50".', metavar="METRIC:MS ...")
    ] = "ttft:500",
    tolerance: Annotated[float, typer.Option(help="How much higher the next rate is that is told apart.")] = 0.05,
    jobs: Annotated[int, typer.Option(help="Local processes, one policy each.")] = 1,
    cluster: Annotated[
        str | None, typer.Option(help="Ray cluster to run on: ray://host:port, or local.", metavar="ADDRESS")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for peak.csv, probes.csv and meta.json.")] = None,
    report: ReportFlag = None,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", help="No progress bar.")] = False,
) -> None:
    """Find the highest request rate at which each policy still meets its objectives.

    --request-rate is where the search begins; the cache has the size it has at that rate, whatever the rate tried.
    """
    from bench.output import prepare_output
    from bench.peak import PeakRule, plan_searches
    from bench.slo import parse_objectives
    from bench.study_output import STUDY_SCHEMA
    from bench.workers import Workers

    settings = replace(settings, duration_s=duration, repeats=repeats)
    workers = Workers(jobs, cluster)
    with_report = wants_report(report, out)
    if out is not None:
        prepare_output(out, STUDY_SCHEMA)
    searches = plan_searches(settings, PeakRule(parse_objectives([slo], "--slo"), tolerance))
    peaks, partial = _find_all(searches, workers, disable_tqdm)
    if peaks:
        _report(searches[0], peaks, partial, out, with_report)
    if partial:
        raise typer.Exit(INTERRUPTED)


def _find_all(searches: "list[PeakSearch]", workers: "Workers", disable_tqdm: bool) -> "tuple[list[Peak], bool]":
    """The peaks found, and whether an interrupt left some out."""
    from bench.peak import Probe, find_peak
    from bench.progress import task_progress

    peaks: list[Peak] = []
    with task_progress(len(searches), "policies", disable_tqdm=disable_tqdm) as progress:

        def show(probe: Probe) -> None:
            verdict = "meets" if probe.meets else "stopped early" if probe.stopped_s is not None else "fails"
            progress.tell(f"{probe.policy}: {probe.request_rate:.3g} req/s {verdict}")

        found: Iterator[Peak] = (find_peak(search, show) for search in searches)
        if not workers.is_this_process:
            found = workers.run(find_peak, searches)
        try:
            for result in found:
                peaks.append(result)
                progress.advance(result.policy)
        except KeyboardInterrupt:
            return peaks, True
    return peaks, False


def _report(search: "PeakSearch", peaks: "list[Peak]", partial: bool, out: Path | None, with_report: bool) -> None:
    """Writes the files, prints the table, and ends stdout on one JSON line."""
    from rich.console import Console

    from bench.peak_table import order_by_peak, peak_line, peak_rows, peak_table, probe_rows
    from bench.platform import open_platform
    from bench.report.render import renew_report
    from bench.study_output import study_meta, write_study
    from bench.table import print_safely

    settings, peaks = search.settings, order_by_peak(peaks)
    platform = open_platform(settings)
    if out is not None:
        details: dict[str, Any] = {"settings": asdict(settings), "rule": asdict(search.rule)}
        details |= {"start_rate": search.start_rate, "profile": platform.profile()}
        tables = {"peak.csv": peak_rows(peaks), "probes.csv": probe_rows(peaks)}
        write_study(out, tables, study_meta("peak", partial, details))
        renew_report(out, with_report)
    workload = settings.workload or (settings.trace.name if settings.trace else "")
    caption = f"Peak load: {workload} on {platform.model.name}, simulated on {settings.device.removeprefix('sim:')}"
    print_safely(Console(), peak_table(peaks, search, caption))
    typer.echo(peak_line(peaks, search, partial))
