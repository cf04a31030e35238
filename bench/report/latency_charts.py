"""Charts of latency: how it is distributed, and where the time to the first token goes."""

from collections.abc import Mapping, Sequence

import numpy as np

from bench.format import compact
from bench.metrics import PolicySummary
from bench.report.bars import CUT_MARK, BarRow, bar_chart
from bench.report.colours import colour, series_dashes, series_role
from bench.report.figure import SERIES, log_ticks, milliseconds, name_axes, new_axes, printable, to_svg
from bench.statistics import PERCENTILE_METHOD, FloatArray

# A few outliers would press everything else against the axis: the rest of the tail is in the table.
SHOWN_TO = 0.995
_SHARES = np.concatenate([np.linspace(1 - SHOWN_TO, 0.95, 100), np.linspace(0.955, SHOWN_TO, 9)])
_LOGARITHMIC_FROM = 4.0  # largest over smallest latency
PARTS = (
    ("mean_queue_ms", "queue", "queue"),
    ("mean_adapter_load_ms", "adapter load", "adapter-load"),
    ("mean_kv_load_ms", "KV load", "kv-load"),
    ("mean_prefill_ms", "prefill", "prefill"),
)
_TOTAL = "mean_ttft_ms"
_CUT_AT = 1.5  # times the longest bar of a stable policy


def distribution_chart(
    latencies_ms: Mapping[str, FloatArray], order: Sequence[str], title: str, description: str, limit_ms: float | None
) -> str | None:
    """Cumulative distributions, one line per policy; None without any latency.

    ``latencies_ms`` goes from policy to its latencies. ``order`` fixes each policy's colour. ``limit_ms`` is an
    objective to draw.
    """
    present = {policy: values for policy, values in latencies_ms.items() if values.size}
    if not present:
        return None
    curves = {policy: np.quantile(values, _SHARES, method=PERCENTILE_METHOD) for policy, values in present.items()}
    low = min(float(curve[0]) for curve in curves.values())
    high = max(float(curve[-1]) for curve in curves.values())
    figure, axes = new_axes(height=236)
    for policy, curve in curves.items():
        index = order.index(policy)
        (line,) = axes.plot(
            curve,
            _SHARES,
            color=colour(series_role(index)),
            lw=2,
            dashes=series_dashes(index) or (None, None),
        )
        line.set_gid(SERIES + printable(policy))
    axes.set(ylim=(0, 1), xlim=(low, high if high > low else low + 1))
    axes.yaxis.set_major_formatter("{x:.0%}")
    logarithmic = low > 0 and high > _LOGARITHMIC_FROM * low
    if logarithmic:
        axes.set(xscale="log")
        log_ticks(axes.xaxis)
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(milliseconds)
    if limit_ms is not None and low <= limit_ms <= high:
        axes.axvline(limit_ms, color=colour("limit"), lw=1.2, dashes=(3, 3))
    name_axes(axes, f"{title}{', logarithmic' if logarithmic else ''}", "requests")
    return to_svg(figure, f"Cumulative distribution of {title}", description)


def parts_chart(ordered: Sequence[PolicySummary]) -> str | None:
    """Mean TTFT as a bar of its parts per policy; None where no policy's source told the parts.

    A saturated policy would flatten the others: its bar is cut short and marked, its label still says the total.
    """
    told = [summary for summary in ordered if all(summary.mean(metric) is not None for metric, _, _ in PARTS)]
    totals = [summary.mean(_TOTAL) or 0.0 for summary in told]
    if not any(totals):
        return None
    stable = max((total for total, summary in zip(totals, told, strict=True) if not summary.saturated), default=0.0)
    full = min(max(totals), _CUT_AT * stable) if stable else max(totals)
    rows = [
        BarRow(
            name=summary.policy,
            pieces=tuple((role, summary.mean(metric) or 0.0) for metric, _, role in PARTS),
            label=f"{CUT_MARK if total > full else ''}{compact(total)} ms",
        )
        for summary, total in zip(told, totals, strict=True)
    ]
    return bar_chart(rows, full, "Mean TTFT in parts", parts_text(told))


def parts_text(summaries: Sequence[PolicySummary]) -> str:
    """The figures of ``parts_chart`` in words."""
    return "; ".join(
        f"{summary.policy}: " + ", ".join(f"{label} {compact(summary.mean(metric))} ms" for metric, label, _ in PARTS)
        for summary in summaries
    )
