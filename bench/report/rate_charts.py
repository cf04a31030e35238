"""Latency against load, or against whatever else a study varies: one curve per policy, and the limit it may reach."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.format import compact
from bench.report.colours import colour, series_dashes, series_role
from bench.report.figure import SERIES, log_ticks, milliseconds, name_axes, new_axes, printable, to_svg
from bench.report.view import Chart, ChartGroup, LegendItem
from bench.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Metric, title, and the objective whose limit is drawn.
METRICS = (
    ("mean_ttft_ms", "TTFT mean", "ttft"),
    ("p95_ttft_ms", "TTFT p95", None),
    ("mean_tpot_ms", "TPOT mean", "tpot"),
)
RATE = "requests per second"
# The paper's limit on mean TTFT, by which it defines peak load (HPCA version, section VI).
PAPER_LIMIT_MS = 500.0
_LOGARITHMIC_FROM = 8.0
_NOTE = "Upright lines are 95 % intervals over seeds. Hollow points are saturated: TTFT grows with the run's length."


@dataclass(frozen=True)
class CurvePoint:
    """A latency in ms at ``x``: a rate, or another setting."""

    x: float
    latency_ms: Estimate
    saturated: bool = False


Curves = Mapping[str, Sequence[CurvePoint]]


def curve_group(
    title: str,
    curves_of: Callable[[str], Curves],
    limits_ms: Mapping[str, float | None],
    order: Sequence[str],
    x_name: str = RATE,
) -> ChartGroup:
    """A chart for each of ``METRICS``; ``curves_of`` tells a metric's points by policy.

    ``limits_ms`` are objectives; without one on TTFT, the paper's is drawn.
    """
    limits = {"ttft": PAPER_LIMIT_MS} | {name: limit for name, limit in limits_ms.items() if limit is not None}
    charts, shown = [], set[str]()
    for metric, name, objective in METRICS:
        curves = curves_of(metric)
        limit = limits.get(objective or "")
        svg = curve_chart(curves, order, name, x_name, limit)
        if svg is not None:
            charts.append(Chart(name, svg, "" if limit is None else f"Limit: {compact(limit)} ms (dashed)."))
            shown |= {policy for policy, points in curves.items() if points}
    legend = policy_legend([policy for policy in order if policy in shown], order)
    return ChartGroup(title, tuple(charts), legend, _NOTE if charts else "")


def policy_legend(policies: Sequence[str], order: Sequence[str]) -> tuple[LegendItem, ...]:
    """A line of its colour and dashes for each policy; ``order`` fixes both."""
    return tuple(
        LegendItem(policy, series_role(index), " ".join(f"{length:g}" for length in series_dashes(index)))
        for policy, index in ((policy, order.index(policy)) for policy in policies)
    )


def curve_chart(
    curves: Curves, order: Sequence[str], title: str, x_name: str, limit_ms: float | None = None
) -> str | None:
    """One line per policy with its intervals; saturated points are hollow. None without two places to connect.

    A limit far above all points is not drawn: it would flatten them.
    """
    known = {
        policy: sorted((point for point in points if point.latency_ms.mean is not None), key=lambda point: point.x)
        for policy, points in curves.items()
    }
    places = sorted({point.x for curve in known.values() for point in curve})
    if len(places) < 2:
        return None
    figure, axes = new_axes(height=250)
    means = [_mean(point) for curve in known.values() for point in curve]
    limits = [limit_ms] if limit_ms is not None and limit_ms < 10 * max(means) else []
    _scale(axes, places, [*means, *limits])
    for limit in limits:
        axes.axhline(limit, color=colour("limit"), lw=1.3, dashes=(3, 3))
    for policy, curve in known.items():
        _draw_curve(axes, policy, curve, order.index(policy))
    name_axes(axes, x_name, title)
    return to_svg(figure, f"{title} against {x_name}", _words(known))


def _scale(axes: "Axes", places: Sequence[float], latencies_ms: Sequence[float]) -> None:
    """Axes around the points, logarithmic where these span much."""
    low, high = min(latencies_ms), max(latencies_ms)
    if low > 0 and high > _LOGARITHMIC_FROM * low:
        axes.set(yscale="log", ylim=(0.7 * low, 1.6 * high))
        log_ticks(axes.yaxis)
    else:
        axes.set_ylim(0, 1.25 * high or 1.0)
    axes.yaxis.set_major_formatter(milliseconds)
    if places[0] > 0 and places[-1] > 3 * _LOGARITHMIC_FROM * places[0]:
        axes.set(xscale="log", xlim=(places[0] / 1.1, places[-1] * 1.1))
        log_ticks(axes.xaxis)
        axes.xaxis.set_major_formatter("{x:,g}")
    else:
        margin = 0.04 * (places[-1] - places[0])
        axes.set_xlim(places[0] - margin, places[-1] + margin)
        axes.locator_params(axis="x", nbins=6)


def _draw_curve(axes: "Axes", policy: str, curve: Sequence[CurvePoint], index: int) -> None:
    shade, dashes = colour(series_role(index)), series_dashes(index) or (None, None)
    bottom, top = axes.get_ylim()
    (line,) = axes.plot(
        [point.x for point in curve], [_mean(point) for point in curve], color=shade, lw=2, dashes=dashes
    )
    line.set_gid(SERIES + printable(policy))
    for point in curve:
        low, high = point.latency_ms.low, point.latency_ms.high
        if low is not None and high is not None:
            axes.plot([point.x] * 2, [max(low, bottom), min(high, top)], color=shade, lw=1.2)
        fill = colour("surface") if point.saturated else shade
        axes.plot([point.x], [_mean(point)], "o", ms=5.5, mec=shade, mew=1.5, mfc=fill)


def _mean(point: CurvePoint) -> float:
    return point.latency_ms.mean or 0.0


def _words(curves: Curves) -> str:
    return "; ".join(
        f"{policy}: " + ", ".join(f"{compact(point.latency_ms.mean)} ms at {point.x:g}" for point in curve)
        for policy, curve in curves.items()
        if curve
    )
