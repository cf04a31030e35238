"""The protocol of a figure, and what most of them share."""

from collections.abc import Sequence
from typing import Protocol

from bench.reproduce.cells import Case, Cell
from bench.reproduce.ratios import Setting, as_change, breakdown, mean_ratio, pace, pair
from bench.reproduce.rows import FigureRow, figure_row
from bench.reproduce.study import Study
from bench.table_layout import SATURATED

LABELS = {
    "mean_ttft_ms": "TTFT",
    "p95_ttft_ms": "P95 TTFT",
    "p99_ttft_ms": "P99 TTFT",
    "mean_tpot_ms": "TPOT",
    "p95_tpot_ms": "P95 TPOT",
    "p99_tpot_ms": "P99 TPOT",
    "hbm_util": "HBM used",
    "hit_rate": "hit rate",
    "computed_prompt_share": "prompt computed",
    "swap_bytes": "PCIe traffic",
}


class Figure(Protocol):
    """One figure of the paper, or a table of our own. ``says``: the paper's claim and where it stands."""

    @property
    def number(self) -> str:
        """As ``--figure`` takes it."""

    @property
    def title(self) -> str:
        """What it shows."""

    @property
    def says(self) -> str:
        """The paper's claim with its place."""

    def cases(self, study: Study) -> list[Case]:
        """The cases whose load must be known first."""

    def cells(self, study: Study) -> list[Cell]:
        """All cells of the figure, once its cases have a load."""

    def rows(self, study: Study) -> list[FigureRow]:
        """What there is to say of the cells that have been run."""


def compare(
    study: Study,
    figure: str,
    case: str,
    settings: Sequence[Setting],
    metric: str,
    policies: tuple[str, str],
    unit: str,
    paper: float | None = None,
    note: str = "",
) -> list[FigureRow]:
    """Rows for ``policies[0]`` over ``policies[1]``: one over the stable settings, and one that says SATURATED over the
    others. The paper's number stands beside the first; where that is missing, nothing can be said of it."""
    ours, theirs = policies
    pairs = pair(study, settings, ours, theirs)
    label = f"{LABELS.get(metric, metric)}, {ours} vs {theirs}"
    rows = []
    for group, is_stable in ((pairs.stable, True), (pairs.saturated, False)):
        ratio = mean_ratio(group, metric)
        if ratio.mean is None:
            continue
        figures = as_change(ratio) if unit == "%" else ratio
        notes = [note] if note else []
        if len(group) < pairs.num_settings:
            notes.append(f"{len(group)} of {pairs.num_settings} settings")
        if metric == "mean_ttft_ms":
            notes.append(breakdown(group, policies))
        elif metric == "mean_tpot_ms":
            notes.append(pace(group, policies))
        name = label if is_stable else f"{label} ({SATURATED})"
        row = figure_row(figure, case, name, unit, figures, paper if is_stable else None, "; ".join(notes))
        rows.append(row)
    return rows
