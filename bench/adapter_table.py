"""The adapters that fare worst under one policy."""

from rich import box
from rich.table import Table
from rich.text import Text

from bench.format import compact, count
from bench.metrics import PolicySummary
from bench.statistics import Estimate

WORST_ADAPTERS = 5

# Header, metric, scale to the header's unit.
_COLUMNS = (
    ("TTFT mean\nms", "mean_ttft_ms", 1.0),
    ("TTFT p95\nms", "p95_ttft_ms", 1.0),
    ("TPOT mean\nms", "mean_tpot_ms", 1.0),
    ("adapter\nhits %", "adapter_hit_rate", 100.0),
    ("KV hits\nin HBM %", "kv_hit_rate", 100.0),
    ("cold\nreq %", "cold_request_ratio", 100.0),
)


def adapter_table(summary: PolicySummary, limit: int = WORST_ADAPTERS) -> Table | None:
    """The ``limit`` adapters with the highest mean TTFT, worst first; None when fewer than two finished anything."""
    served = {
        name: ttft for name in summary.per_adapter if (ttft := _figure(summary, name, "mean_ttft_ms")) is not None
    }
    if len(served) < 2:
        return None
    worst = sorted(served, key=lambda name: (-served[name], name))[:limit]
    title = Text(f"Slowest {len(worst)} of {len(served):,} adapters under {summary.policy}", style="bold")
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1)
    )
    table.add_column("adapter", overflow="ellipsis", max_width=20, no_wrap=True)
    table.add_column("requests\nper seed", justify="right", no_wrap=True)
    for header, _, _ in _COLUMNS:
        table.add_column(header, justify="right", no_wrap=True)
    for name in worst:
        figures = ((_figure(summary, name, metric), scale) for _, metric, scale in _COLUMNS)
        cells = [compact(None if figure is None else figure * scale) for figure, scale in figures]
        table.add_row(name, count(_figure(summary, name, "num_prompts")), *cells)
    return table


def _figure(summary: PolicySummary, adapter: str, metric: str) -> float | None:
    return summary.per_adapter[adapter].get(metric, Estimate(None)).mean
