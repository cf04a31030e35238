"""What a replay prints and writes."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bench.documents import RunInfo, to_json
from bench.format import compact
from bench.output import write_run
from bench.replay.block import BlockFacts, result_block
from bench.replay.check import ArrivalCheck, ArrivalPattern
from bench.replay.mix import adapter_rows, fairness, fairness_line, mix_csv, mix_table
from bench.replay.outcome import ReplayOutcome
from bench.replay.requests_csv import requests_csv
from bench.replay.settings import ReplaySettings
from bench.slo import parse_objectives
from bench.table import print_comparison, print_safely, summary_line
from workloads.trace import trace_sha256

REQUESTS_CSV, MIX_CSV = "requests.csv", "mix.csv"


def write_replay(path: Path, outcome: ReplayOutcome, info: RunInfo) -> None:
    """Writes the run as `libra bench` does, with requests.csv and mix.csv beside. Raises LibraError."""
    rows = adapter_rows(outcome)
    outcome.result.extra["fairness"] = asdict(fairness(outcome, rows))
    extra = {REQUESTS_CSV: requests_csv(outcome.observations), MIX_CSV: mix_csv(rows)}
    write_run(path, [outcome.result], [outcome.summary], info, partial=outcome.partial, extra=extra)


def run_info(settings: ReplaySettings, outcome: ReplayOutcome, command: str) -> RunInfo:
    """The origin of a run, for meta.json."""
    return RunInfo(
        command=command,
        conditions=outcome.conditions,
        settings=asdict(settings),
        trace_sha256={settings.seed: trace_sha256(outcome.trace)},
        warnings=outcome.trace.header.warnings,
        objectives_ms=parse_objectives(settings.goodput).limits(),
    )


def print_replay(console: Console, settings: ReplaySettings, outcome: ReplayOutcome) -> None:
    """vLLM's block, libra's table, the adapters, the arrivals, and the verdict; stdout ends on one JSON line."""
    facts = BlockFacts(
        duration_s=max(outcome.result.duration_s - settings.warmup_s, 1e-9),
        request_rate=outcome.trace.request_rate,
        max_concurrency=settings.max_concurrency,
        objectives=parse_objectives(settings.goodput),
    )
    console.print(Text(result_block(outcome.counted, facts)), highlight=False)
    print_safely(
        console, Text("Above, latency counts from sending, as in vLLM; below, from the schedule.", style="dim")
    )
    print_comparison(console, [outcome.summary], outcome.conditions, partial=outcome.partial)
    rows = adapter_rows(outcome)
    print_safely(console, mix_table(rows))
    print_safely(console, Text(f"\n{fairness_line(fairness(outcome, rows))}\n"))
    print_safely(console, Text("\n".join(arrival_lines(outcome.arrivals)) + "\n"))
    style = "bold green" if outcome.verdict.valid else "bold red"
    first, *rest = outcome.verdict.lines()
    print_safely(console, Text(first, style=style))
    print_safely(console, Text("\n".join(rest)))


def arrival_lines(check: ArrivalCheck) -> list[str]:
    """The arrival self-check in words."""
    return [
        f"Arrivals asked: {_pattern(check.asked)}",
        f"Arrivals sent:  {_pattern(check.sent)}",
        f"Send lag: mean {compact(check.mean_send_lag_ms)}, p99 {compact(check.p99_send_lag_ms)}, "
        f"max {compact(check.max_send_lag_ms)} ms; wait for a slot: mean {compact(check.mean_slot_wait_ms)}, "
        f"p99 {compact(check.p99_slot_wait_ms)} ms",
    ]


def replay_line(settings: ReplaySettings, outcome: ReplayOutcome) -> str:
    """One JSON object on one line, for scripts: as `libra bench` ends, and the verdict."""
    line = json.loads(summary_line([outcome.summary], outcome.conditions, partial=outcome.partial, out=settings.out))
    return to_json(
        line
        | {
            "valid": outcome.verdict.valid,
            "reasons": outcome.verdict.reasons,
            "failures": outcome.failures,
            "slo_attainment": outcome.summary.mean("slo_attainment"),
            "p99_send_lag_ms": outcome.arrivals.p99_send_lag_ms,
        }
    )


def _pattern(pattern: ArrivalPattern) -> str:
    return (
        f"{compact(pattern.rate)} req/s, CV of gaps {compact(pattern.cv)}, "
        f"index of dispersion {compact(pattern.dispersion)} (1 s windows)"
    )
