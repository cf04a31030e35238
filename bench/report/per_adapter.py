"""Adapters one by one: how evenly a policy serves them, and which fare worst."""

from collections.abc import Sequence

from bench.adapter_table import COLUMNS, adapter_cells, slowest_adapters
from bench.format import MISSING, compact, with_interval
from bench.metrics import PolicySummary
from bench.report.comparison import figure_cell
from bench.report.view import Cell, Table, TableRow

_WORST = 10


def fairness_table(ordered: Sequence[PolicySummary]) -> Table | None:
    """One row per policy: Jain's index and its slowest adapter; None where no policy served two adapters."""
    rows = [_fairness_row(summary) for summary in ordered if len(slowest_adapters(summary, 2)) == 2]
    if not rows:
        return None
    return Table(
        caption="How evenly adapters are served",
        columns=("Jain's index", "worst adapter's TTFT, ms", "mean TTFT, ms", "adapters", "slowest"),
        rows=tuple(rows),
        corner="policy",
        note="Jain's index is over the adapters' mean TTFTs: 1 is all alike. The worst adapter's TTFT is the mean over "
        "seeds of each seed's worst; the slowest has the highest mean over all seeds, or finished nothing.",
    )


def adapter_tables(ordered: Sequence[PolicySummary]) -> tuple[Table, ...]:
    """For each policy the adapters with the highest mean TTFT, worst first."""
    tables = []
    for summary in ordered:
        worst = slowest_adapters(summary, _WORST)
        if len(worst) > 1:
            rows = tuple(
                TableRow(name, cells=tuple(Cell(text) for text in adapter_cells(summary, name))) for name in worst
            )
            columns = ("requests per seed", *(header.replace("\n", " ") for header, _, _ in COLUMNS))
            caption = f"Slowest {len(worst)} of {_num_served(summary):,} adapters under {summary.policy}"
            tables.append(Table(caption, columns, rows, corner="adapter"))
    return tuple(tables)


def _fairness_row(summary: PolicySummary) -> TableRow:
    worst = summary.metrics["worst_adapter_mean_ttft_ms"]
    return TableRow(
        summary.policy,
        cells=(
            figure_cell(compact(summary.mean("jain_index"))),
            figure_cell(with_interval(worst.mean, worst.half_width)),
            figure_cell(compact(summary.mean("mean_ttft_ms"))),
            Cell(f"{_num_served(summary):,}"),
            Cell(summary.worst_adapter or MISSING),
        ),
    )


def _num_served(summary: PolicySummary) -> int:
    return len(slowest_adapters(summary, len(summary.per_adapter)))
