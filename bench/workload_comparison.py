"""The screen of `libra workload inspect A --compare B`."""

import json
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.format import compact, count
from bench.workload_table import SCHEMA_VERSION, inspection_row, percent
from workloads.comparison import Comparison
from workloads.inspection import Inspection
from workloads.statistics import DISPERSION_WINDOWS_S, PERCENTILES, TOP_ADAPTERS, Spread

Rows = list[tuple[str, str]]
# The figure beside which each distance stands.
DISTANCE_ROWS = {
    "gaps": "rate, req/s",
    "gap_shapes": "gap CV",
    "popularity": "popularity slope",
    "turns": "turns per session",
    "prompt_tokens": "prompt tokens",
    "new_tokens": "new tokens a turn",
    "output_tokens": "output tokens",
}


def comparison_table(comparison: Comparison) -> RenderableType:
    """Two traces as columns of an 80-column table, with the distance of their distributions beside each quantity."""
    left, right = comparison.left, comparison.right
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", style="bold", no_wrap=True)
    for name in _column_names(left.header.name, right.header.name):
        table.add_column(Text(name), justify="right", header_style="bold cyan", overflow="fold")
    table.add_column("KS", justify="right", header_style="bold cyan", no_wrap=True)
    distances = {DISTANCE_ROWS[distance.quantity]: distance.ks for distance in comparison.distances}
    for (label, one), (_, other) in zip(_figures(left), _figures(right), strict=True):
        table.add_row(label, one, other, compact(distances[label]) if label in distances else "")
    caption = Text(
        "Lengths: mean, median / p99. KS: largest difference of the two cumulative\n"
        "distributions, 0 equal, 1 disjoint; gap CV: of gaps over their own mean.",
        style="dim",
    )
    warnings = [
        Text(f"warning: {inspection.header.name}: {warning}", style="bold red")
        for inspection in (left, right)
        for warning in inspection.warnings
    ]
    return Group(Text(), table, Text(), caption, *warnings)


def comparison_json(comparison: Comparison) -> str:
    """The same as one JSON object on one line, for scripts."""
    row: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "left": inspection_row(comparison.left),
        "right": inspection_row(comparison.right),
        "ks": {distance["quantity"]: distance["ks"] for distance in map(asdict, comparison.distances)},
    }
    return json.dumps(row, allow_nan=False)


def _column_names(left: str, right: str) -> tuple[str, str]:
    return (left, right) if left != right else (f"{left} (A)", f"{right} (B)")


def _figures(inspection: Inspection) -> Rows:
    statistics, demand = inspection.statistics, inspection.memory_demand
    return [
        ("requests", count(statistics.num_requests)),
        ("duration, s", count(statistics.duration_s)),
        ("rate, req/s", compact(statistics.request_rate)),
        ("gap CV", compact(statistics.gap_cv)),
        *(
            (f"dispersion over {width} s", compact(value))
            for width, value in zip(DISPERSION_WINDOWS_S, statistics.dispersion, strict=True)
        ),
        ("adapters used", count(statistics.adapters_used)),
        ("popularity slope", compact(statistics.popularity_slope)),
        *(
            (f"share of top {top}", percent(share))
            for top, share in zip(TOP_ADAPTERS, statistics.top_shares, strict=True)
        ),
        ("sessions", count(statistics.num_sessions)),
        ("turns per session", _spread(statistics.turns)),
        ("prompt tokens", _spread(statistics.prompt_tokens)),
        ("new tokens a turn", _spread(statistics.new_tokens)),
        ("output tokens", _spread(statistics.output_tokens)),
        ("requests in flight", compact(statistics.mean_in_flight)),
        ("prefix hits", percent(inspection.prefix_hits.rate)),
        ("working set, GiB", compact(inspection.working_set.gib)),
        ("memory change", percent(demand.per_adapter.mean)),
        ("changes above 20 %", percent(demand.per_adapter.large_share)),
    ]


def _spread(spread: Spread) -> str:
    median, high = (spread.percentiles[PERCENTILES.index(wanted)] for wanted in (50, 99))
    return f"{compact(spread.mean)}, {count(round(median))} / {count(round(high))}"
