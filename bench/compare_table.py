"""A comparison of two runs as a table, as CSV and as JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.compare import Difference, PolicyComparison
from bench.compare_options import CompareOptions
from bench.documents import to_json
from bench.format import MISSING, compact
from bench.table_layout import SATURATED

_COMPARE_SCHEMA = 1
_VERDICTS = {"faster": ("▼ faster", "bold green"), "slower": ("▲ slower", "bold red"), "same": ("  same", "dim")}
_LATENCY_NAMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2el_ms": "E2E"}


def compare_table(
    path_a: Path, path_b: Path, comparisons: Sequence[PolicyComparison], options: CompareOptions
) -> RenderableType:
    """One table per pair of policies, in ms, and how the intervals were made."""
    title = Text(f"A = {path_a}\nB = {path_b}", style="bold")
    parts = [part for comparison in comparisons for part in (Text(), _draw(comparison), _facts(comparison))]
    return Group(title, *parts, Text(), Text(_method(comparisons, options), style="dim"))


def compare_csv(comparisons: Sequence[PolicyComparison]) -> str:
    """One row per pair of policies and metric; a missing interval is empty cells."""
    text = io.StringIO()
    rows = [
        {"policy_a": comparison.policy_a, "policy_b": comparison.policy_b, **_difference_document(difference)}
        for comparison in comparisons
        for difference in comparison.differences
    ]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def compare_json(path_a: Path, path_b: Path, comparisons: Sequence[PolicyComparison], options: CompareOptions) -> str:
    """One JSON object on one line."""
    return to_json(
        {
            "schema_version": _COMPARE_SCHEMA,
            "run_a": str(path_a),
            "run_b": str(path_b),
            "options": asdict(options),
            "comparisons": [
                {**asdict(comparison), "differences": [_difference_document(item) for item in comparison.differences]}
                for comparison in comparisons
            ],
        }
    )


def _difference_document(difference: Difference) -> dict[str, Any]:
    return {
        "metric": difference.metric,
        "a": difference.a,
        "b": difference.b,
        "difference": difference.difference,
        "ci_low": difference.low,
        "ci_high": difference.high,
        "percent": difference.percent,
        "verdict": difference.verdict,
    }


def _draw(comparison: PolicyComparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("ms", no_wrap=True)
    table.add_column(f"A\n{comparison.policy_a}", justify="right", header_style="bold cyan")
    table.add_column(f"B\n{comparison.policy_b}", justify="right", header_style="bold cyan")
    table.add_column("B − A", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("%", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for difference in comparison.differences:
        word, style = _VERDICTS[difference.verdict]
        verdict = Text(word, style=style) if difference.low is not None else Text("  no interval", style="dim")
        percent = MISSING if difference.percent is None else f"{difference.percent:+.1f}"
        table.add_row(
            metric_label(difference.metric),
            compact(difference.a),
            compact(difference.b),
            signed(difference.difference),
            signed_interval(difference),
            percent,
            verdict,
        )
    return table


def metric_label(metric: str) -> str:
    statistic, _, latency = metric.partition("_")
    return f"{_LATENCY_NAMES[latency]} {statistic}"


def signed(value: float) -> str:
    return f"+{compact(value)}" if value > 0 else compact(value)


def signed_interval(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return MISSING
    return f"[{signed(difference.low)}, {signed(difference.high)}]"


def _facts(comparison: PolicyComparison) -> Text:
    """What was paired, what was not, and whether the two can be compared at all."""
    seeds = len(comparison.seeds)
    facts = (
        f"{comparison.num_pairs:,} requests paired, {comparison.num_clusters:,} sessions, "
        f"{seeds} seed{'' if seeds == 1 else 's'}"
    )
    if comparison.only_a or comparison.only_b:
        facts += f"; left out: {comparison.only_a:,} finished only in A, {comparison.only_b:,} only in B"
    text = Text(facts, style="dim")
    if comparison.unlike_prompts or comparison.unlike_answers:
        unlike = f"{comparison.unlike_prompts:,} prompts and {comparison.unlike_answers:,} answers"
        text.append(f"\nnot of equal length in A and B: {unlike}", style="yellow")
    saturated = [name for name, full in (("A", comparison.saturated_a), ("B", comparison.saturated_b)) if full]
    if saturated:
        text.append(f"\n{SATURATED}: {' and '.join(saturated)} (latency grows with the run's length)", style="bold red")
    return text


def _method(comparisons: Sequence[PolicyComparison], options: CompareOptions) -> str:
    several = max(len(comparison.seeds) for comparison in comparisons) > 1
    units = "seeds, then sessions within them" if several else "sessions; arrivals of one seed only"
    return f"paired bootstrap over {units}; {options.resamples:,} resamples; intervals not corrected for their number"
