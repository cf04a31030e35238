"""One saved run as a section: tables from its summary, distributions from its rows, memory from its timeline."""

from collections.abc import Sequence

import numpy as np

from bench.format import compact, half_width
from bench.metrics import PolicySummary
from bench.report.bars import CUT_MARK
from bench.report.cache_charts import RATE_CHARTS, USES, MemoryUse, memory_chart, memory_use, rate_bars
from bench.report.comparison import comparison_table, interval_words
from bench.report.latency_charts import PARTS, SHOWN_TO, distribution_chart, parts_chart
from bench.report.origin import facts, warnings
from bench.report.per_adapter import adapter_tables, fairness_table
from bench.report.rate_charts import policy_legend
from bench.report.view import Chart, ChartGroup, LegendItem, RunSection, Tile
from bench.saved_run import SavedRun
from bench.saved_summary import saved_conditions, saved_summaries
from bench.statistics import FloatArray
from bench.table import order_by_ttft

MAX_BINS = 150
_TILES = (
    ("mean_ttft_ms", "TTFT mean", "ms"),
    ("p95_ttft_ms", "TTFT p95", "ms"),
    ("mean_tpot_ms", "TPOT mean", "ms"),
    ("request_throughput", "finished", "req/s"),
)


def run_section(run: SavedRun, name: str, anchor: str, order: Sequence[str], bins: int = MAX_BINS) -> RunSection:
    """Everything there is to show of ``run``.

    ``name`` and ``anchor`` tell it from other runs of the page, ``order`` fixes the colour of each policy, ``bins`` how
    finely memory is drawn. Raises LibraError when a file of the run is damaged.
    """
    ordered = order_by_ttft(saved_summaries(run))
    conditions = saved_conditions(run)
    return RunSection(
        anchor=anchor,
        name=name,
        title=conditions.title(),
        conditions=conditions.describe(),
        caption="; ".join(run.meta["captions"]),
        leader=_leader(ordered),
        tiles=_tiles(ordered),
        comparison=comparison_table(ordered, run.meta["settings"].get("baseline")) if ordered else None,
        groups=tuple(
            group
            for group in (_latency(run, ordered, order), _cache(ordered), _memory(run, ordered, bins))
            if group.charts or group.note
        ),
        fairness=fairness_table(ordered),
        adapters=adapter_tables(ordered),
        facts=facts(run),
        warnings=warnings(run, ordered),
    )


def _leader(ordered: Sequence[PolicySummary]) -> str:
    if not ordered or ordered[0].mean("mean_ttft_ms") is None:
        return ""
    best = ordered[0].policy
    return best if len(ordered) == 1 else f"{best}: the lowest mean TTFT of {len(ordered)} policies"


def _tiles(ordered: Sequence[PolicySummary]) -> tuple[Tile, ...]:
    """The headline figures of the policy with the lowest mean TTFT."""
    tiles = []
    for metric, label, unit in _TILES if ordered else ():
        figure = ordered[0].metrics.get(metric)
        if figure is not None and figure.mean is not None:
            half = figure.half_width
            small = "" if half is None else half_width(figure.mean, half)
            tiles.append(Tile(label, compact(figure.mean), unit, small))
    return tuple(tiles)


def _latency(run: SavedRun, ordered: Sequence[PolicySummary], order: Sequence[str]) -> ChartGroup:
    limits = run.meta.get("objectives_ms") or {}
    charts = []
    for column, title in (("ttft", "TTFT"), ("tpot", "TPOT")):
        words = "; ".join(_percentiles(summary, column) for summary in ordered)
        latencies = _latencies(run, ordered, f"{column}_ms")
        svg = distribution_chart(latencies, order, title, words, limits.get(column))
        if svg is not None:
            limit = limits.get(column)
            caption = f"Every finished request, all seeds together, to the {100 * SHOWN_TO:g}th percentile."
            if limit is not None:
                caption += f" Dashed: the objective, {compact(limit)} ms."
            charts.append(Chart(f"{title}, cumulative", svg, caption))
    legend = policy_legend([summary.policy for summary in ordered], order) if charts else ()
    parts = parts_chart(ordered)
    if parts is not None:
        caption = f"{CUT_MARK.strip()} A saturated policy's bar is cut short." if CUT_MARK in parts else ""
        swatches = tuple(LegendItem(label, role) for _, label, role in PARTS)
        charts.append(Chart("Where mean TTFT goes", parts, caption, swatches))
    return ChartGroup("Latency", tuple(charts), legend)


def _latencies(run: SavedRun, ordered: Sequence[PolicySummary], column: str) -> dict[str, FloatArray]:
    """Policy -> the latencies that its percentiles are made from, all seeds pooled."""
    rows = run.rows
    counted = rows[(rows["status"] == "finished") & (rows["arrival_s"] >= run.meta["conditions"]["warmup_s"])]
    by_policy = {str(policy): values.dropna().to_numpy(float) for policy, values in counted.groupby("policy")[column]}
    return {summary.policy: by_policy.get(summary.policy, np.empty(0)) for summary in ordered}


def _percentiles(summary: PolicySummary, latency: str) -> str:
    figures = (f"{name} {compact(summary.mean(f'{name}_{latency}_ms'))} ms" for name in ("median", "p95", "p99"))
    return f"{summary.policy}: {', '.join(figures)}"


def _cache(ordered: Sequence[PolicySummary]) -> ChartGroup:
    charts = tuple(
        Chart(chart.title, svg, chart.caption, chart.legend)
        for chart in RATE_CHARTS
        if (svg := rate_bars(chart, ordered)) is not None
    )
    note = f"Thin lines are intervals: {interval_words(ordered)}." if charts and interval_words(ordered) else ""
    return ChartGroup("Hit rates", charts, note=note)


def _memory(run: SavedRun, ordered: Sequence[PolicySummary], bins: int) -> ChartGroup:
    title = "HBM over time"
    if not ordered:
        return ChartGroup(title, ())
    if not run.has_timeline:
        return ChartGroup(title, (), note="Not shown: this run has no timeline.parquet.")
    uses = _memory_uses(run, ordered, bins)
    if not uses:
        return ChartGroup(title, (), note="Not shown: the timeline of this run does not tell what held the memory.")
    cache_gib = run.meta["conditions"]["cache_gib"]
    charts = []
    for summary in ordered:
        if summary.policy in uses:
            seed, use = uses[summary.policy]
            caption = f"Seed {seed}: " + ", ".join(_memory_figures(summary, seed)) + "."
            charts.append(Chart(summary.policy, memory_chart(use, summary.policy, cache_gib), caption))
    legend = tuple(LegendItem(label, role) for _, label, role in USES)
    return ChartGroup(title, tuple(charts), (*legend, LegendItem("free", "track")))


def _memory_uses(run: SavedRun, ordered: Sequence[PolicySummary], bins: int) -> dict[str, tuple[int, MemoryUse]]:
    """Policy -> the first seed with a timeline, and the memory over it."""
    uses = {}
    timeline = run.timeline()
    for summary in ordered:
        for seed in summary.seeds:
            samples = timeline[(timeline["policy"] == summary.policy) & (timeline["seed"] == seed)]
            if summary.policy not in uses and (use := memory_use(samples, bins)) is not None:
                uses[summary.policy] = (seed, use)
    return uses


def _memory_figures(summary: PolicySummary, seed: int) -> list[str]:
    figures = summary.per_seed.get(seed, {})
    named = (("hbm_util", "of the pool used"), ("invalid_kv_ratio", "of history KV invalid"))
    return [
        f"{compact(100 * value)} % {words}" for metric, words in named if (value := figures.get(metric)) is not None
    ]
