"""Peak loads as a table, as rows and as one JSON line."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.documents import to_json
from bench.format import MISSING, compact, times, with_interval
from bench.peak import Peak, PeakSearch, Probe

_SHOWN = {"ttft": "TTFT", "tpot": "TPOT", "tpt": "time per token", "e2el": "E2E"}


def order_by_peak(peaks: Sequence[Peak]) -> list[Peak]:
    """The highest peak first."""
    return sorted(peaks, key=lambda peak: (-(peak.rate or 0.0), peak.policy))


def peak_table(peaks: Sequence[Peak], search: PeakSearch, caption: str) -> RenderableType:
    """One row per policy, best first, and under which rule the figures hold."""
    ordered = order_by_peak(peaks)
    names = [name for name, limit in search.rule.objectives.limits().items() if limit is not None]
    # Headings of two lines and narrow gaps: two objectives fit into 80 columns.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    there = (f"{_SHOWN[name]}\nms there" for name in names)
    for column in ("policy", "peak\nreq/s", "fails\nat", "vs\nbest", *there, "rates\ntried", "stopped"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    best = ordered[0].rate
    for peak in ordered:
        ratio = peak.rate / best if peak.rate and best else None
        figures = [_mean(peak.at_peak, name) for name in names]
        stopped = sum(probe.stopped_s is not None for probe in peak.probes)
        rates = (compact(peak.rate), compact(peak.next_rate))
        table.add_row(peak.policy, *rates, times(ratio), *figures, str(len(peak.probes)), str(stopped))
    return Group(Text(), Text(caption, style="bold"), table, Text(), Text(_rule(search), style="dim"), Text())


def peak_rows(peaks: Sequence[Peak]) -> list[dict[str, Any]]:
    """One row per policy, in the order given."""
    return [
        {
            "policy": peak.policy,
            "peak_load_rps": peak.rate,
            "fails_at_rps": peak.next_rate,
            "num_rates": len(peak.probes),
            **({} if peak.at_peak is None else _figures(peak.at_peak)),
        }
        for peak in peaks
    ]


def probe_rows(peaks: Sequence[Peak]) -> list[dict[str, Any]]:
    """One row per policy and rate that was tried, by rate."""
    return [
        {
            "policy": probe.policy,
            "request_rate": probe.request_rate,
            "meets": probe.meets,
            "seeds": len(probe.seeds),
            "saturated_seeds": probe.saturated_seeds,
            "stopped_s": probe.stopped_s,
            **_figures(probe),
        }
        for peak in peaks
        for probe in sorted(peak.probes, key=lambda probe: probe.request_rate)
    ]


def peak_line(peaks: Sequence[Peak], search: PeakSearch, partial: bool) -> str:
    """One JSON object for scripts, the best policy first."""
    policies = {p.policy: {"peak_load_rps": p.rate, "fails_at_rps": p.next_rate} for p in order_by_peak(peaks)}
    rule = {"slo": str(search.rule.objectives), "tolerance": search.rule.tolerance}
    return to_json({"schema_version": 1, **rule, "partial": partial, "policies": policies})


def _figures(probe: Probe) -> dict[str, float | None]:
    return {
        f"mean_{name}_ms{end}": value
        for name, figure in probe.means.items()
        for end, value in (("", figure.mean), ("_ci_low", figure.low), ("_ci_high", figure.high))
    }


def _mean(probe: Probe | None, name: str) -> str:
    return MISSING if probe is None else with_interval(probe.means[name].mean, probe.means[name].half_width)


def _rule(search: PeakSearch) -> str:
    rule, seeds = search.rule, len(search.settings.seeds)
    limits = [f"mean {_SHOWN[name]} < {limit:g} ms" for name, limit in rule.objectives.limits().items() if limit]
    holds = "the mean of one seed" if seeds == 1 else f"the upper end of the 95 % interval over {seeds} paired seeds"
    length = "" if search.settings.duration_s is None else f" in runs of {search.settings.duration_s:g} s"
    return (
        f"Highest rate with {' and '.join(limits)} for {holds}{length}, on a grid of {rule.tolerance:.1%} steps; cache "
        f"{search.settings.hbm_cache_gib:.3g} GiB at every rate. A run is stopped when what its requests have waited "
        "settles that the rate fails."
    )
