"""One metric over many runs: a row per run or setting, a column per policy, the best of each row marked."""

from collections.abc import Mapping, Sequence

from bench.format import MISSING, compact, with_interval
from bench.report.view import Cell, Table, TableRow
from bench.statistics import Estimate

# The figure and whether it is saturated; None could not be run, and what is missing has not been.
Entry = tuple[Estimate, bool] | None
FAULT = "cannot run"
NOTE = "The best stable figure of each row is marked; red ones are saturated: TTFT grows with the run's length."


def matrix(caption: str, corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Mapping[str, Entry]]]) -> Table:
    """``rows`` are (name, column -> entry); the lowest figure is the best."""
    return Table(
        caption, tuple(columns), tuple(TableRow(name, cells=_cells(columns, row)) for name, row in rows), corner, NOTE
    )


def _cells(columns: Sequence[str], row: Mapping[str, Entry]) -> tuple[Cell, ...]:
    known = [(entry[0].mean, entry[1]) for entry in row.values() if entry is not None and entry[0].mean is not None]
    # As in the comparison table: figures that read the same share the mark, and beside a stable one no saturated one
    # has it.
    marked_state = all(saturated for _, saturated in known)
    best = compact(min(mean for mean, saturated in known if saturated == marked_state)) if len(known) > 1 else ""
    return tuple(_cell(row.get(column, (Estimate(None), False)), best, marked_state) for column in columns)


def _cell(entry: Entry, best: str, marked_state: bool) -> Cell:
    """``marked_state``: the state, saturated or not, in which a figure may be the ``best``."""
    if entry is None:
        return Cell(FAULT, is_warning=True)
    figure, saturated = entry
    text, _, half = with_interval(figure.mean, figure.half_width).partition(" ±")
    is_best = text == best and text != MISSING and saturated == marked_state
    return Cell(text, f"±{half}" if half else "", is_best=is_best, is_warning=saturated)
