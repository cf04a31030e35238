"""A search for peak loads as a page: the peaks, and latency at every rate that was tried."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench.format import MISSING, compact, count, with_interval
from bench.report.comparison import figure_cell
from bench.report.origin import origin_facts, where
from bench.report.rate_charts import CurvePoint, Curves, curve_group
from bench.report.view import Cell, Page, Study, Table, TableRow
from bench.saved_study import SavedStudy
from bench.statistics import Estimate

PEAK_CSV, PROBES_CSV = "peak.csv", "probes.csv"
_TEXT = frozenset({"policy"})
_PARTIAL = "PARTIAL: the search was interrupted; policies are missing."


def peak_page(study: SavedStudy) -> Page:
    """What `libra peak` found. Raises LibraError for damaged files."""
    peaks, probes = study.table(PEAK_CSV, _TEXT), study.table(PROBES_CSV, _TEXT)
    limits = {name: limit for name, limit in study.meta["rule"]["objectives"].items() if limit is not None}
    order = [peak["policy"] for peak in peaks]
    asked = " and ".join(f"{name} below {compact(limit)} ms" for name, limit in limits.items())
    what = study.meta["settings"]
    return Page(
        title=f"Peak load: {what['workload'] or what['trace']}",
        captions=(where(what["device"]), f"the highest rate with mean {asked}: {_held_by(what['repeats'])}"),
        study=Study(
            overview=_peak_table(peaks, list(limits)),
            curves=(curve_group("Latency at the rates tried", partial(_curves, probes), limits, order),),
            warnings=(_PARTIAL,) if study.meta["partial"] else (),
            facts=origin_facts(study.meta),
        ),
    )


def _held_by(num_seeds: int) -> str:
    return "of one seed" if num_seeds == 1 else f"the upper end of the 95 % interval over {num_seeds} seeds"


def _peak_table(peaks: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> Table:
    columns = ("peak, req/s", "fails at", *(f"{name} there, ms" for name in objectives), "rates tried")
    rates = [peak["peak_load_rps"] for peak in peaks if peak["peak_load_rps"] is not None]
    best = compact(max(rates)) if len(rates) > 1 else ""
    rows = []
    for peak in peaks:
        rate = compact(peak["peak_load_rps"])
        figures = [_estimate(peak, f"mean_{name}_ms") for name in objectives]
        cells = (
            Cell(rate, is_best=rate == best and rate != MISSING),
            Cell(compact(peak["fails_at_rps"])),
            *(figure_cell(with_interval(figure.mean, figure.half_width)) for figure in figures),
            Cell(count(peak["num_rates"])),
        )
        rows.append(TableRow(peak["policy"], cells=cells))
    return Table("Peak load by policy", columns, tuple(rows), corner="policy")


def _curves(probes: Sequence[Mapping[str, Any]], metric: str) -> Curves:
    curves: dict[str, list[CurvePoint]] = {}
    for probe in probes:
        point = CurvePoint(probe["request_rate"], _estimate(probe, metric), bool(probe["saturated_seeds"]))
        curves.setdefault(probe["policy"], []).append(point)
    return curves


def _estimate(row: Mapping[str, Any], metric: str) -> Estimate:
    return Estimate(row.get(metric), row.get(f"{metric}_ci_low"), row.get(f"{metric}_ci_high"))
