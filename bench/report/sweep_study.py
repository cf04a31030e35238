"""A sweep as a page: curves over what was varied, and one table per metric."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench.report.matrix import matrix
from bench.report.origin import origin_facts, where
from bench.report.rate_charts import METRICS, RATE, CurvePoint, Curves, curve_group
from bench.report.view import ChartGroup, Page, Study, Table
from bench.saved_study import SavedStudy
from bench.settings import BenchSettings
from bench.sweep import FAULT, SWEEP_CSV
from bench.sweep_table import SEED, Pivot, pivot

POLICY, REQUEST_RATE = "policy", "request_rate"
# A page that nobody scrolls to the end of is no report: the CSV holds all.
MAX_ROWS, MAX_GROUPS = 200, 12


def sweep_page(study: SavedStudy) -> Page:
    """All cells of a sweep, averaged over seeds as `libra sweep` prints them."""
    grid: Mapping[str, Sequence[str]] = study.meta["grid"]
    rows = study.table(SWEEP_CSV, text=frozenset(grid)) if study.meta["num_done"] else []
    across = POLICY if POLICY in grid else next(iter(grid))
    known = {name for row in rows for name in row}
    pivots = {metric: pivot(grid, rows, metric, across) for metric, _, _ in METRICS if metric in known}
    fixed = ", ".join(f"{name} {value}" for name, value in study.meta["fixed"].items())
    device = study.meta["fixed"].get("device", BenchSettings.device)
    return Page(
        title=f"Sweep of {', '.join(name for name in grid if name != SEED)}",
        captions=(*(() if "device" in grid else (where(device),)), *((fixed,) if fixed else ())),
        study=Study(
            matrices=tuple(_matrix(pivots[metric], label) for metric, label, _ in METRICS if metric in pivots),
            curves=_sweep_curves(pivots, grid[across]),
            warnings=_warnings(study.meta, rows),
            facts=origin_facts(study.meta),
        ),
    )


def _warnings(meta: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    found = []
    if meta["partial"]:
        found.append(f"PARTIAL: {len(rows):,} of {meta['num_cells']:,} cells have been run.")
    if len(meta["revisions"]) > 1:
        found.append(f"Cells of {len(meta['revisions'])} revisions of libra are mixed.")
    num_faults = sum(row[FAULT] is not None for row in rows)
    if num_faults:
        found.append(f"{num_faults:,} of {len(rows):,} cells could not run; {SWEEP_CSV} says why.")
    return tuple(found)


def _matrix(shown: Pivot, label: str) -> Table:
    rows = []
    for row in shown.rows[:MAX_ROWS]:
        entries = {column: shown.entries[row, column] for column in shown.columns if (row, column) in shown.entries}
        rows.append((_named(shown.keys, row) or "all", entries))
    table = matrix(f"{label}, ms", "setting", shown.columns, rows)
    left_out = len(shown.rows) - len(rows)
    return replace(table, note=f"{table.note} {left_out:,} more rows are in {SWEEP_CSV}.") if left_out else table


def _sweep_curves(pivots: Mapping[str, Pivot], columns: Sequence[str]) -> tuple[ChartGroup, ...]:
    """Groups of charts over the request rate or, where that does not vary, over the first key whose values are numbers;
    one group for each combination of the other keys."""
    if not pivots:
        return ()
    any_pivot = next(iter(pivots.values()))
    axis = _numeric_key(any_pivot)
    if axis is None:
        return ()
    place = any_pivot.keys.index(axis)
    families = dict.fromkeys(row[:place] + row[place + 1 :] for row in any_pivot.rows)
    others = any_pivot.keys[:place] + any_pivot.keys[place + 1 :]
    x_name = RATE if axis == REQUEST_RATE else axis.replace("_", " ")
    groups = []
    for family in list(families)[:MAX_GROUPS]:
        title = f"Latency against {x_name}" + (f": {_named(others, family)}" if others else "")
        groups.append(curve_group(title, partial(_curves, pivots, place, family), {}, columns, x_name))
    return tuple(group for group in groups if group.charts)


def _numeric_key(shown: Pivot) -> str | None:
    """The key to draw curves over; None where none varies over at least two numbers."""
    for key in sorted(shown.keys, key=lambda key: key != REQUEST_RATE):
        place = shown.keys.index(key)
        numbers = {number for row in shown.rows if (number := _number(row[place])) is not None}
        if len(numbers) > 1:
            return key
    return None


def _curves(pivots: Mapping[str, Pivot], place: int, family: tuple[str, ...], metric: str) -> Curves:
    curves: dict[str, list[CurvePoint]] = {}
    for (row, column), entry in pivots[metric].entries.items() if metric in pivots else ():
        x = _number(row[place])
        if row[:place] + row[place + 1 :] == family and x is not None and entry is not None:
            curves.setdefault(column, []).append(CurvePoint(x, *entry))
    return curves


def _number(text: str) -> float | None:
    """None for what is no number, and for infinity, which no axis has."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _named(keys: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))
