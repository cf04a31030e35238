"""A sweep as a table: one metric, averaged over seeds, with one key of the grid across and the others down."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.format import MISSING, with_interval
from bench.statistics import Estimate, estimate
from bench.sweep import FAULT
from bench.table_rows import GROUPS
from libra.errors import unknown

SEED = "seed"
SATURATED_MARK = "!"
FAULT_MARK = "x"
LONG_HEADING = 9


@dataclass(frozen=True)
class Pivot:
    """``rows`` and ``columns`` are values of the grid, in its order; ``entries`` goes from both to the figure over
    seeds and whether a seed was saturated. A missing entry has not been run, one of None could not run."""

    keys: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...]
    entries: Mapping[tuple[tuple[str, ...], str], tuple[Estimate, bool] | None]


def pivot(grid: Mapping[str, Sequence[str]], rows: Sequence[Mapping[str, Any]], metric: str, across: str) -> Pivot:
    """``rows`` as ``sweep_rows`` gives them. Raises LibraError for a metric or a key that is not there."""
    if across not in grid:
        raise unknown("--columns", across, grid)
    known = dict.fromkeys(name for row in rows for name in row)
    if metric not in known:
        raise unknown("--metric", metric, known.keys() - grid.keys())
    keys = tuple(key for key, values in grid.items() if key not in (across, SEED) and len(values) > 1)
    groups: dict[tuple[tuple[str, ...], str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((tuple(row[key] for key in keys), row[across]), []).append(row)
    entries = {place: _entry(group, metric) for place, group in groups.items()}
    return Pivot(keys, tuple(dict.fromkeys(place for place, _ in groups)), tuple(grid[across]), entries)


def _entry(group: Sequence[Mapping[str, Any]], metric: str) -> tuple[Estimate, bool] | None:
    ran = [row for row in group if row[FAULT] is None]
    if not ran:
        return None
    return estimate(row[metric] for row in ran), any(row["saturated"] for row in ran)


def pivot_table(shown: Pivot, metric: str, caption: str) -> RenderableType:
    """The table, with what its marks mean below."""
    label, scale = _label(metric)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for key in shown.keys or ("",):
        table.add_column(_in_parts(key), no_wrap=True, style="bold")
    for column in shown.columns:
        # A narrow terminal puts the interval on a line of its own; it cuts nothing off.
        table.add_column(_in_parts(column), justify="right", overflow="fold", header_style="bold cyan")
    marks = set()
    for row in shown.rows:
        cells = []
        for column in shown.columns:
            entry = shown.entries.get((row, column), (Estimate(None), False))
            mark = FAULT_MARK if entry is None else SATURATED_MARK if entry[1] else ""
            marks.add(mark)
            cells.append(FAULT_MARK if entry is None else _scaled(entry[0], scale) + mark)
        table.add_row(*(row or (label,)), *cells)
    legend = [f"{MISSING} not run yet"] if len(shown.entries) < len(shown.rows) * len(shown.columns) else []
    legend += (
        [f"{SATURATED_MARK} SATURATED in a seed: TTFT grows with the run's length"] if SATURATED_MARK in marks else []
    )
    legend += [f"{FAULT_MARK} cannot run: see {FAULT} in the CSV"] if FAULT_MARK in marks else []
    note = " · ".join([f"{label}, mean ± 95 % Student-t interval over seeds", *legend])
    return Group(Text(), Text(caption, style="bold"), table, Text(), Text(note, style="dim"), Text())


def _in_parts(name: str) -> str:
    """A heading on several lines where it is long, so that its column need not be."""
    return re.sub(r"([-_])", r"\1\n", name) if len(name) > LONG_HEADING else name


def _label(metric: str) -> tuple[str, float]:
    """The metric's name and unit in tables, and the factor to that unit."""
    for row in (row for group in GROUPS for row in group.rows):
        if row.metric == metric:
            return f"{row.label.strip()} {row.unit}".strip(), row.scale
    return metric, 1.0


def _scaled(figure: Estimate, scale: float) -> str:
    half = None if figure.half_width is None else figure.half_width * scale
    return with_interval(None if figure.mean is None else figure.mean * scale, half)
