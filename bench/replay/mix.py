"""How each adapter fared: the mix asked for beside the mix achieved, fairness, and the price over the base model."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from bench.columns import BASE_MODEL
from bench.documents import finite
from bench.format import compact, count, times
from bench.metrics import PolicySummary
from bench.replay.outcome import ReplayOutcome, achieved_mix, failures_by_adapter, mix_distance
from bench.statistics import ratio

SHOWN_ADAPTERS = 12


@dataclass(frozen=True)
class AdapterRow:
    """One adapter. Shares are of all requests asked for and of all finished; ``slowdown`` figures divide by the base
    model's mean, None where the trace asks nothing of it."""

    adapter: str
    model: str
    asked: int
    asked_share: float
    finished: int
    achieved_share: float | None
    failed: int
    mean_ttft_ms: float | None
    p95_ttft_ms: float | None
    p99_ttft_ms: float | None
    mean_tpot_ms: float | None
    mean_e2el_ms: float | None
    slo_attainment: float | None
    ttft_slowdown: float | None
    tpot_slowdown: float | None


@dataclass(frozen=True)
class Fairness:
    """``worst_adapter`` has the lowest share of requests that met the objectives, or the highest mean TTFT where there
    are none; the ``starved_adapters``, of which nothing finished, are worse than all others. ``jain_index`` is over the
    mean TTFTs of those that were served. Slowdowns are of all requests to adapters over those to
    the base model. ``mix_distance`` is the total variation between the mix asked for and the mix achieved."""

    worst_adapter: str | None
    worst_slo_attainment: float | None
    worst_mean_ttft_ms: float | None
    starved_adapters: int
    jain_index: float | None
    mix_distance: float | None
    ttft_slowdown: float | None
    tpot_slowdown: float | None


def adapter_rows(outcome: ReplayOutcome) -> list[AdapterRow]:
    """One row per adapter of the trace, the busiest first."""
    mix, failed = achieved_mix(outcome.trace, outcome.observations), failures_by_adapter(outcome.observations)
    models = {None: outcome.server.base_model} | {seen.record.adapter: seen.model for seen in outcome.observations}
    num_asked, num_finished = (sum(column) for column in zip(*mix.values(), strict=True))
    rows = []
    for name, (asked, finished) in mix.items():
        figures = {metric: _figure(outcome.summary, name, metric) for metric in _METRICS}
        base = {metric: _figure(outcome.summary, BASE_MODEL, metric) for metric in _METRICS}
        rows.append(
            AdapterRow(
                adapter=name,
                model=models.get(None if name == BASE_MODEL else name, ""),
                asked=asked,
                asked_share=asked / num_asked,
                finished=finished,
                achieved_share=ratio(finished, num_finished),
                failed=failed[name],
                **figures,
                ttft_slowdown=_quotient(figures["mean_ttft_ms"], base["mean_ttft_ms"]),
                tpot_slowdown=_quotient(figures["mean_tpot_ms"], base["mean_tpot_ms"]),
            )
        )
    return rows


_METRICS = ("mean_ttft_ms", "p95_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "slo_attainment")


def fairness(outcome: ReplayOutcome, rows: Sequence[AdapterRow]) -> Fairness:
    """Fairness across the adapters."""
    summary = outcome.summary
    worst = worst_served(rows)
    name = worst.adapter if worst is not None else summary.worst_adapter
    adapters = [row for row in rows if row.adapter != BASE_MODEL and row.finished]
    return Fairness(
        worst_adapter=name,
        worst_slo_attainment=None if worst is None else worst.slo_attainment,
        worst_mean_ttft_ms=None if name is None else _figure(summary, name, "mean_ttft_ms"),
        starved_adapters=len(summary.starved_adapters),
        jain_index=summary.mean("jain_index"),
        mix_distance=mix_distance(achieved_mix(outcome.trace, outcome.observations)),
        ttft_slowdown=_weighted(adapters, "ttft_slowdown"),
        tpot_slowdown=_weighted(adapters, "tpot_slowdown"),
    )


def worst_served(rows: Sequence[AdapterRow]) -> AdapterRow | None:
    """The adapter within the objectives least often, of equals the one that waits longest, or for ever; None without
    objectives."""
    judged = [row for row in rows if row.slo_attainment is not None and row.adapter != BASE_MODEL]

    def rank(row: AdapterRow) -> tuple[float, float, str]:
        ttft_ms = math.inf if row.mean_ttft_ms is None else row.mean_ttft_ms
        return row.slo_attainment or 0.0, -ttft_ms, row.adapter

    return min(judged, key=rank, default=None)


def mix_csv(rows: Sequence[AdapterRow]) -> str:
    """All rows; a missing figure is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(AdapterRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(finite(asdict(row)) for row in rows)
    return text.getvalue()


def mix_table(rows: Sequence[AdapterRow]) -> Table:
    """The busiest adapters, as many as a screen takes, and always the base model."""
    shown = [row for index, row in enumerate(rows) if index < SHOWN_ADAPTERS or row.adapter == BASE_MODEL]
    title = Text(f"{len(shown)} of {len(rows):,} adapters, the busiest first (all in mix.csv)", style="bold")
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1)
    )
    table.add_column("adapter", overflow="ellipsis", max_width=16, no_wrap=True)
    for header in ("asked\n%", "got\n%", "finished\nreq", "failed\nreq", "TTFT mean\nms", "p99\nms", "TPOT\nms"):
        table.add_column(header, justify="right", no_wrap=True)
    for header in ("SLO\n%", "TTFT vs\nbase"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in shown:
        cells = (row.mean_ttft_ms, row.p99_ttft_ms, row.mean_tpot_ms, _percent(row.slo_attainment))
        table.add_row(
            row.adapter,
            compact(_percent(row.asked_share)),
            compact(_percent(row.achieved_share)),
            count(row.finished),
            count(row.failed),
            *(compact(cell) for cell in cells),
            times(row.ttft_slowdown),
        )
    return table


def fairness_line(figures: Fairness) -> str:
    """Fairness in words."""
    parts = []
    if figures.worst_adapter is not None:
        worst = f"worst adapter {figures.worst_adapter}: "
        if figures.worst_mean_ttft_ms is None:
            worst += "nothing finished"
        else:
            worst += f"mean TTFT {compact(figures.worst_mean_ttft_ms)} ms"
        if figures.worst_slo_attainment is not None:
            worst += f", {figures.worst_slo_attainment:.1%} within the objectives"
        parts.append(worst)
    if figures.starved_adapters:
        parts.append(f"{figures.starved_adapters:,} adapters finished nothing")
    others = " over the others" if figures.starved_adapters else ""
    parts.append(f"Jain's index of mean TTFT {compact(figures.jain_index)}{others}")
    if figures.mix_distance is not None:
        parts.append(f"mix achieved is {figures.mix_distance:.1%} off the mix asked for")
    if figures.ttft_slowdown is not None:
        slower = f"adapters vs base model: TTFT {times(figures.ttft_slowdown)}"
        parts.append(f"{slower}, TPOT {times(figures.tpot_slowdown)}")
    else:
        parts.append("no request to the base model to compare with (--base-share 0.1 sends some)")
    return "; ".join(parts)


def _figure(summary: PolicySummary, adapter: str, metric: str) -> float | None:
    figures: Any = summary.per_adapter.get(adapter, {})
    return figures[metric].mean if metric in figures else None


def _quotient(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _weighted(rows: Sequence[AdapterRow], field: str) -> float | None:
    """The mean over finished requests."""
    known = [(row.finished, getattr(row, field)) for row in rows if getattr(row, field) is not None]
    total = sum(weight for weight, _ in known)
    return sum(weight * value for weight, value in known) / total if total else None


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100
