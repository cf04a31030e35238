"""One metric over many runs: a row per run or setting, a column per policy, the best of each row marked."""

from collections.abc import Mapping, Sequence

from bench.format import MISSING, compact, with_interval
from bench.report.view import Cell, Table, TableRow
from bench.statistics import Estimate

# The figure and whether it is saturated; None could not be run, and what is missing has not been.
Entry = tuple[Estimate, bool] | None
FAULT = "cannot run"
NOTE = "The best of each row is marked; red figures are saturated: TTFT grows with the run's length."


def matrix(caption: str, corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Mapping[str, Entry]]]) -> Table:
    """``rows`` are (name, column -> entry); the lowest figure is the best."""
    return Table(
        caption, tuple(columns), tuple(TableRow(name, cells=_cells(columns, row)) for name, row in rows), corner, NOTE
    )


def _cells(columns: Sequence[str], row: Mapping[str, Entry]) -> tuple[Cell, ...]:
    means = [entry[0].mean for entry in row.values() if entry is not None and entry[0].mean is not None]
    # As in the comparison table: figures that read the same share the mark.
    best = compact(min(means)) if len(means) > 1 else ""
    return tuple(_cell(row.get(column, (Estimate(None), False)), best) for column in columns)


def _cell(entry: Entry, best: str) -> Cell:
    if entry is None:
        return Cell(FAULT, is_warning=True)
    figure, saturated = entry
    text, _, half = with_interval(figure.mean, figure.half_width).partition(" ±")
    return Cell(text, f"±{half}" if half else "", is_best=text == best and text != MISSING, is_warning=saturated)
