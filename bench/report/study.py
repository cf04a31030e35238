"""Several saved runs side by side: what differs, who wins where, and latency against load."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.compare import Difference, PolicyComparison, compare_policies
from bench.compare_options import CompareOptions
from bench.compare_table import metric_label, signed, signed_interval
from bench.format import MISSING, compact
from bench.metrics import PolicySummary
from bench.pairing import choose_policies
from bench.report.matrix import matrix
from bench.report.rate_charts import METRICS, CurvePoint, Curves, curve_group
from bench.report.view import Cell, ChartGroup, Study, Table, TableRow
from bench.saved_run import SavedRun
from bench.saved_summary import saved_conditions, saved_summaries
from libra.errors import LibraError

# Settings in which the runs of one curve may differ: the rate itself, and what is no part of the conditions.
_OF_A_CURVE = frozenset({"request_rate", "policies", "seed", "repeats", "baseline", "out", "label", "url"})

Summaries = Mapping[str, PolicySummary]


def study_of(runs: Sequence[SavedRun], names: Sequence[str], order: Sequence[str]) -> Study:
    """What the runs show together. ``names`` tells them apart, ``order`` fixes the colour of each policy."""
    summaries = [{summary.policy: summary for summary in saved_summaries(run)} for run in runs]
    differences, notes = _differences(runs, names) if len(runs) == 2 else ((), ())
    matrices = []
    for metric, label, _ in METRICS:
        rows = [
            (name, {policy: (summary.metrics[metric], summary.saturated) for policy, summary in by_policy.items()})
            for name, by_policy in zip(names, summaries, strict=True)
        ]
        matrices.append(matrix(f"{label}, ms", "run", order, rows))
    return Study(
        overview=_overview(runs, names),
        matrices=tuple(matrices),
        curves=_curve_groups(runs, summaries, order),
        differences=differences,
        notes=notes,
    )


def _overview(runs: Sequence[SavedRun], names: Sequence[str]) -> Table:
    """The runs with what is not the same in all of them."""
    rows = []
    for run in runs:
        conditions = saved_conditions(run)
        state = "partial" if run.meta["partial"] else "complete"
        seeds = str(len(run.meta["seeds"]))
        rows.append((conditions.title(), conditions.describe(), "; ".join(run.meta["captions"]), seeds, state))
    columns = ("what", "conditions", "where", "seeds", "state")
    shown = [column for column in range(len(columns)) if column == 1 or len({row[column] for row in rows}) > 1]
    return Table(
        "Runs",
        tuple(columns[column] for column in shown),
        tuple(
            TableRow(name, cells=tuple(Cell(row[column], is_warning=row[column] == "partial") for column in shown))
            for name, row in zip(names, rows, strict=True)
        ),
        corner="run",
        numeric=False,
    )


def _curve_groups(
    runs: Sequence[SavedRun], summaries: Sequence[Summaries], order: Sequence[str]
) -> tuple[ChartGroup, ...]:
    """Latency against rate for every set of runs that differ in their rate and in nothing else that matters."""
    families: dict[str, list[tuple[SavedRun, Summaries]]] = {}
    for run, by_policy in zip(runs, summaries, strict=True):
        if _rate(run) is not None:
            families.setdefault(_family(run), []).append((run, by_policy))
    groups = []
    for members in families.values():
        if len({_rate(run) for run, _ in members}) > 1:
            first, _ = members[0]
            title = f"Latency against load: {saved_conditions(first).title()}"
            limits = first.meta.get("objectives_ms") or {}
            groups.append(curve_group(title, partial(_curves, members), limits, order))
    return tuple(group for group in groups if group.charts)


def _rate(run: SavedRun) -> float | None:
    rate: float | None = run.meta["conditions"]["request_rate"]
    return rate


def _family(run: SavedRun) -> str:
    """What the runs of one curve have in common, as text."""
    settings: dict[str, Any] = run.meta["settings"]
    shared = {name: value for name, value in sorted(settings.items()) if name not in _OF_A_CURVE}
    return f"{run.meta['conditions']['workload']} {run.meta['conditions']['model']} {shared}"


def _curves(members: Sequence[tuple[SavedRun, Summaries]], metric: str) -> Curves:
    curves: dict[str, list[CurvePoint]] = {}
    for run, by_policy in members:
        for policy, summary in by_policy.items():
            point = CurvePoint(_rate(run) or 0.0, summary.metrics[metric], summary.saturated)
            curves.setdefault(policy, []).append(point)
    return curves


def _differences(runs: Sequence[SavedRun], names: Sequence[str]) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """Two runs request by request, or a note that says why they cannot be paired."""
    first, second = runs
    options = CompareOptions()
    try:
        pairs = choose_policies(first, second)
        comparisons = [compare_policies(first, a, second, b, options) for a, b in pairs]
    except LibraError as error:
        # What follows the semicolon is advice on a command line.
        return (), (f"Not compared request by request: {str(error).partition(';')[0]}.",)
    return tuple(_difference_table(comparison, names, options) for comparison in comparisons), ()


def _difference_table(comparison: PolicyComparison, names: Sequence[str], options: CompareOptions) -> Table:
    a, b = comparison.policy_a, comparison.policy_b
    rows = (
        TableRow(metric_label(difference.metric), "ms", _difference_cells(difference))
        for difference in comparison.differences
    )
    note = (
        f"A is {names[0]}, B is {names[1]}. {comparison.num_pairs:,} requests paired, "
        f"{comparison.num_clusters:,} sessions; paired bootstrap, {options.resamples:,} resamples, intervals not "
        "corrected for their number."
    )
    return Table(
        caption=a if a == b else f"{a} against {b}",
        columns=("A", "B", "B − A", "95 % interval", "%", "verdict"),
        rows=tuple(rows),
        note=note,
    )


def _difference_cells(difference: Difference) -> tuple[Cell, ...]:
    percent = MISSING if difference.percent is None else f"{difference.percent:+.1f}"
    verdict = difference.verdict if difference.low is not None else "no interval"
    return (
        Cell(compact(difference.a)),
        Cell(compact(difference.b)),
        Cell(signed(difference.difference)),
        Cell(signed_interval(difference)),
        Cell(percent),
        Cell(verdict, is_best=verdict == "faster", is_warning=verdict == "slower"),
    )
