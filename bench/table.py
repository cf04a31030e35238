"""The comparison table: policies as columns, best first, and the conditions under which its figures hold."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.conditions import Conditions
from bench.metrics import PolicySummary
from bench.statistics import PERCENTILE_METHOD
from bench.table_layout import SATURATED, Layout, Line, Page, lay_out, ttft_ratio
from libra.errors import unknown

BEST_MARK = "▸"
SUMMARY_KEYS = (
    "mean_ttft_ms",
    "p95_ttft_ms",
    "mean_tpot_ms",
    "mean_e2el_ms",
    "request_throughput",
    "output_throughput",
    "adapter_hit_rate",
    "kv_hit_rate",
    "cold_request_ratio",
    "invalid_kv_ratio",
    "completed",
    "rejected",
)
_SUMMARY_SCHEMA = 1
_ASCII = str.maketrans(
    {"▸": "*", "±": "~", "·": "|", "–": "-", "−": "-", "…": "*", "✓": "+", "✗": "x", "▼": "v", "▲": "^", "─": "-"}
)


def order_by_ttft(summaries: Sequence[PolicySummary]) -> list[PolicySummary]:
    """Lowest mean TTFT first; policies that finished nothing last; equals by name."""

    def rank(summary: PolicySummary) -> tuple[bool, float, str]:
        ttft = summary.mean("mean_ttft_ms")
        return ttft is None, ttft or 0.0, summary.policy

    return sorted(summaries, key=rank)


def print_comparison(
    console: Console,
    summaries: Sequence[PolicySummary],
    conditions: Conditions,
    *,
    baseline: str | None = None,
    partial: bool = False,
) -> None:
    """Prints the table at the console's width; without UTF-8 it spells its marks in ASCII (``*`` for the best).

    Raises LibraError when ``baseline`` is none of the policies.
    """
    table = comparison_table(summaries, conditions, width=console.width, baseline=baseline, partial=partial)
    print_safely(console, table)


def print_safely(console: Console, renderable: RenderableType) -> None:
    """Prints to a console whose encoding may lack the marks and rules that tables use."""
    if console.encoding.lower().startswith("utf"):
        console.print(renderable)
        return
    with console.capture() as capture:
        console.print(renderable)
    console.file.write(capture.get().translate(_ASCII))


def comparison_table(
    summaries: Sequence[PolicySummary],
    conditions: Conditions,
    *,
    width: int,
    baseline: str | None = None,
    partial: bool = False,
) -> RenderableType:
    """The table for ``width`` columns, split into several where not even short cells fit side by side.

    ``baseline`` names the policy that the ratio row divides by; without it that is the best one.
    Raises LibraError when it is none of the policies.
    """
    ordered = order_by_ttft(summaries)
    reference = _reference(ordered, baseline, partial)
    page = lay_out(ordered, reference, baseline if reference.policy == baseline else "best", width)
    title = Text(f"{conditions.title()}: {_captions(ordered)}", style="bold")
    tables = [part for chunk in page.chunks for part in (Text(), _draw(page, chunk))]
    return Group(Text(), title, *tables, Text(), _footer(ordered, conditions, page.layout, partial), Text())


def summary_line(
    summaries: Sequence[PolicySummary],
    conditions: Conditions,
    *,
    baseline: str | None = None,
    partial: bool = False,
    out: Path | None = None,
) -> str:
    """One JSON object on one line, for scripts: the policies best first, each with the headline figures."""
    ordered = order_by_ttft(summaries)
    reference = _reference(ordered, baseline, partial)
    policies = {
        summary.policy: {
            **{key: summary.mean(key) for key in SUMMARY_KEYS},
            "ttft_ratio": ttft_ratio(summary, reference),
            "ttft_ratio_caveat": SATURATED if summary.saturated != reference.saturated else None,
            "saturated": summary.saturated,
            "seeds": len(summary.seeds),
        }
        for summary in ordered
    }
    line = {
        "schema_version": _SUMMARY_SCHEMA,
        "best": ordered[0].policy,
        "ttft_ratio_to": reference.policy,
        "caption": _captions(ordered),
        "workload": conditions.workload,
        "model": conditions.model,
        "partial": partial or not all(summary.complete for summary in ordered),
        "out": None if out is None else str(out),
        "policies": policies,
    }
    return json.dumps(line, allow_nan=False)


def _reference(ordered: Sequence[PolicySummary], baseline: str | None, partial: bool) -> PolicySummary:
    """What the ratios divide by: the baseline, or the best without one or where an interrupt came before its turn."""
    if not ordered:
        raise ValueError("a table needs at least one policy")
    if baseline is None:
        return ordered[0]
    by_name = {summary.policy: summary for summary in ordered}
    if baseline not in by_name and partial:
        return ordered[0]
    if baseline not in by_name:
        raise unknown("baseline policy", baseline, by_name)
    return by_name[baseline]


def _draw(page: Page, columns: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, page.layout.gap - 1))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(page.names[column], justify="right", header_style="bold cyan", no_wrap=True)
    for line in page.lines:
        label = Text(line.label, style="" if line.is_metric else "bold")
        label.append(f" {line.unit}" if line.unit else "", style="dim")
        table.add_row(label, *(_cell(line, column) for column in columns if line.cells))
    return table


def _cell(line: Line, column: int) -> Text:
    text = line.cells[column]
    if column in line.best:
        return Text(f"{BEST_MARK}{text}", style="bold green")
    return Text(text, style="bold red" if SATURATED in text else "")


def _captions(ordered: Sequence[PolicySummary]) -> str:
    return "; ".join(dict.fromkeys(summary.caption for summary in ordered))


def _footer(ordered: Sequence[PolicySummary], conditions: Conditions, layout: Layout, partial: bool) -> Text:
    footer = Text()
    if partial or not all(summary.complete for summary in ordered):
        footer.append("PARTIAL: the run was interrupted; the figures cover what had been served.\n", style="bold red")
    footer.append(f"{conditions.describe()}\n{_sampling(ordered, layout)}\n", style="dim")
    saturated = [summary.policy for summary in ordered if summary.saturated]
    if saturated:
        reason = "the queue was still growing at the end, so mean TTFT grows with the run's length"
        footer.append(f"{SATURATED}: {', '.join(saturated)} ({reason}).", style="bold red")
    else:
        footer.append("All runs are stable.", style="dim")
    return footer


def _sampling(ordered: Sequence[PolicySummary], layout: Layout) -> str:
    seeds = max(len(summary.seeds) for summary in ordered)
    among = " among stable policies" if len({summary.saturated for summary in ordered}) > 1 else ""
    parts = [f"{BEST_MARK} best of the row{among}"] if len(ordered) > 1 else []
    if seeds == 1:
        parts.append("1 seed: no interval")
    else:
        shown = "" if layout.intervals else " (all of them in summary.csv)"
        parts.append(f"mean ± 95 % Student-t interval over {seeds} seeds{shown}")
    return " · ".join([*parts, f"{PERCENTILE_METHOD} percentiles"])
