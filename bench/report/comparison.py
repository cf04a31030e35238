"""The comparison table of the terminal, as a table of a page: the same rows, figures and marks."""

import sys
from collections.abc import Sequence

from bench.metrics import PolicySummary
from bench.report.view import Cell, Table, TableRow
from bench.statistics import PERCENTILE_METHOD
from bench.table_layout import SATURATED, Line, lay_out

_INDENT = 2  # spaces of a label per level


def comparison_table(ordered: Sequence[PolicySummary], baseline: str | None) -> Table:
    """All rows with all intervals, policies as columns in the given order.

    ``baseline`` is what the TTFT ratios divide by, where it is one of the policies; else that is the first.
    """
    reference, reference_name = named_reference(ordered, baseline)
    page = lay_out(ordered, reference, reference_name, sys.maxsize)
    notes = [f"{PERCENTILE_METHOD} percentiles"]
    if words := interval_words(ordered):
        notes.insert(0, words)
    if len(ordered) > 1:
        notes.insert(0, "the best of a row is marked")
    return Table(
        caption="Policies compared",
        columns=tuple(page.names),
        rows=tuple(_row(line) for line in page.lines),
        corner="",
        note=" · ".join(notes),
    )


def named_reference(ordered: Sequence[PolicySummary], baseline: str | None) -> tuple[PolicySummary, str]:
    """The policy that ratios divide by, and what the table calls it."""
    for summary in ordered:
        if summary.policy == baseline:
            return summary, summary.policy
    return ordered[0], "best"


def interval_words(ordered: Sequence[PolicySummary]) -> str:
    """How the intervals were made; "" where there are none."""
    seeds = max((len(summary.seeds) for summary in ordered), default=0)
    return f"mean ± 95 % Student-t interval over {seeds} seeds" if seeds > 1 else ""


def figure_cell(text: str, *, is_best: bool = False) -> Cell:
    """``412 ±13`` as a figure with its interval behind it."""
    value, separator, half = text.partition(" ±")
    return Cell(value, f"±{half}" if separator else "", is_best, is_warning=SATURATED in text)


def _row(line: Line) -> TableRow:
    label = line.label.lstrip()
    depth = (len(line.label) - len(label)) // _INDENT
    cells = (figure_cell(text, is_best=column in line.best) for column, text in enumerate(line.cells))
    return TableRow(label, line.unit, tuple(cells), depth)
