"""Charts of the cache: what was found where, and what held the memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.format import clock, compact, with_interval
from bench.metrics import PolicySummary
from bench.report.bars import BarRow, bar_chart
from bench.report.colours import colour
from bench.report.figure import SERIES, name_axes, new_axes, printable, to_svg
from bench.report.view import LegendItem
from bench.statistics import Estimate, FloatArray

if TYPE_CHECKING:
    import pandas as pd

_PERCENT = 100.0
# Column of the timeline, what people call it, role; from the bottom up. Unusable KV is told apart from history KV.
USES = (
    ("adapter_blocks", "adapters", "adapters"),
    ("history_blocks", "history KV", "history"),
    ("invalid_blocks", "invalid KV", "invalid"),
    ("running_blocks", "running KV", "running"),
    ("in_flight_blocks", "in flight", "in-flight"),
)
_FREE = "free_blocks"


@dataclass(frozen=True)
class RateChart:
    """A ratio to draw as bars: ``metrics`` are (name, what it is called, role), the first with its interval, further
    ones stacked behind it."""

    title: str
    caption: str
    metrics: tuple[tuple[str, str, str], ...]

    @property
    def legend(self) -> tuple[LegendItem, ...]:
        """The colours, where there are several to tell apart."""
        return tuple(LegendItem(label, role) for _, label, role in self.metrics) if len(self.metrics) > 1 else ()


RATE_CHARTS = (
    RateChart(
        "Adapter hits", "Requests that found their adapter in HBM.", (("adapter_hit_rate", "found in HBM", "hit"),)
    ),
    RateChart(
        "KV hits",
        "Prompt tokens whose KV was found.",
        (("kv_hit_rate", "in HBM", "hit"), ("kv_host_hit_rate", "in host memory", "host-hit")),
    ),
    RateChart("Cold requests", "Requests that waited for any load.", (("cold_request_ratio", "waited", "cold"),)),
)


def rate_bars(chart: RateChart, ordered: Sequence[PolicySummary]) -> str | None:
    """The ratio per policy on a track of 100 %; None where no policy has it."""
    first, *_ = chart.metrics
    known = [summary for summary in ordered if summary.mean(first[0]) is not None]
    if not known:
        return None
    rows = []
    for summary in known:
        figures = [(summary.metrics.get(metric, Estimate(None)), role) for metric, _, role in chart.metrics]
        present = [(figure, role) for figure, role in figures if figure.mean is not None]
        rows.append(
            BarRow(
                name=summary.policy,
                pieces=tuple((role, _PERCENT * (figure.mean or 0.0)) for figure, role in present),
                label=" + ".join(_percent(figure) for figure, _ in present),
                low=_scaled(present[0][0].low),
                high=_scaled(present[0][0].high),
            )
        )
    words = "; ".join(f"{row.name}: {row.label}" for row in rows)
    return bar_chart(rows, _PERCENT, chart.title, words)


def _percent(figure: Estimate) -> str:
    half = figure.half_width
    return f"{with_interval(_scaled(figure.mean), None if half is None else _PERCENT * half)} %"


def _scaled(ratio: float | None) -> float | None:
    return None if ratio is None else _PERCENT * ratio


@dataclass(frozen=True)
class MemoryUse:
    """Shares of the pool over time: ``edges_s`` [bins + 1], ``shares`` [uses, bins] in the order of ``USES``."""

    edges_s: FloatArray
    shares: FloatArray


def memory_use(samples: "pd.DataFrame", num_bins: int) -> MemoryUse | None:
    """Time averages of one run's timeline in ``num_bins`` equal spans; None where it says too little.

    A sample holds until the next one.
    """
    names = [name for name, _, _ in USES]
    if not {"time_s", _FREE, *names} <= set(samples.columns):
        return None
    told = samples[["time_s", _FREE, *names]].dropna().sort_values("time_s")
    time_s = told["time_s"].to_numpy(dtype=float)
    if time_s.size < 2 or time_s[0] == time_s[-1]:
        return None
    blocks = told[names].to_numpy(dtype=float, copy=True).T
    totals = told[_FREE].to_numpy(dtype=float) + blocks.sum(axis=0) - blocks[names.index("invalid_blocks")]
    blocks[names.index("history_blocks")] -= blocks[names.index("invalid_blocks")]
    shares = np.divide(blocks, totals, out=np.zeros_like(blocks), where=totals > 0)
    edges_s = np.linspace(time_s[0], time_s[-1], num_bins + 1)
    spans_s = np.diff(time_s)
    return MemoryUse(edges_s, np.array([_averages(row, time_s, spans_s, edges_s) for row in shares]))


def _averages(values: FloatArray, time_s: FloatArray, spans_s: FloatArray, edges_s: FloatArray) -> FloatArray:
    integral = np.concatenate([[0.0], np.cumsum(values[:-1] * spans_s)])
    averages: FloatArray = np.diff(np.interp(edges_s, time_s, integral)) / np.diff(edges_s)
    return averages


def memory_chart(use: MemoryUse, policy: str, cache_gib: float | None) -> str:
    """Stacked areas of the pool over time, in GiB where its size is known, else in percent."""
    full, unit = (cache_gib, "GiB") if cache_gib else (_PERCENT, "%")
    time, time_unit = clock(float(use.edges_s[-1] - use.edges_s[0]))
    middles = (use.edges_s[:-1] + use.edges_s[1:]) / 2 / time
    # The outer bins reach to the edges, so that the areas fill the axis.
    middles[[0, -1]] = use.edges_s[[0, -1]] / time
    figure, axes = new_axes(height=176, left=34)
    axes.axhspan(0, full, color=colour("track"), lw=0)
    # From the top layer down, each from zero: half the points of bands, and no gaps between them.
    levels = full * np.cumsum(use.shares, axis=0)
    for (_, label, role), level in reversed(list(zip(USES, levels, strict=True))):
        area = axes.fill_between(middles, level, color=colour(role), lw=0)
        area.set_gid(SERIES + label)
    axes.set(xlim=(middles[0], middles[-1]), ylim=(0, full))
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=6)
    name_axes(axes, f"time, {time_unit}", unit)
    return to_svg(figure, f"HBM by use over time under {printable(policy)}", memory_text(use))


def memory_text(use: MemoryUse) -> str:
    """The averages over the time drawn, in words."""
    averages = np.average(use.shares, axis=1, weights=np.diff(use.edges_s))
    return ", ".join(
        f"{label} {compact(_PERCENT * float(share))} %" for (_, label, _), share in zip(USES, averages, strict=True)
    )
