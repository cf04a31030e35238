"""The adapters that fare worst under one policy."""

from rich import box
from rich.table import Table
from rich.text import Text

from bench.columns import BASE_MODEL
from bench.format import compact, count
from bench.metrics import PolicySummary
from bench.statistics import Estimate

WORST_ADAPTERS = 5

# Header, metric, scale to the header's unit.
COLUMNS = (
    ("TTFT mean\nms", "mean_ttft_ms", 1.0),
    ("TTFT p95\nms", "p95_ttft_ms", 1.0),
    ("TPOT mean\nms", "mean_tpot_ms", 1.0),
    ("adapter\nhits %", "adapter_hit_rate", 100.0),
    ("KV hits\nin HBM %", "kv_hit_rate", 100.0),
    ("cold\nreq %", "cold_request_ratio", 100.0),
)


def slowest_adapters(summary: PolicySummary, limit: int = WORST_ADAPTERS) -> list[str]:
    """The ``limit`` adapters with the highest mean TTFT, worst first; those that finished nothing are left out."""
    ttfts = {name: _figure(summary, name, "mean_ttft_ms") for name in summary.per_adapter if name != BASE_MODEL}
    served = {name: ttft for name, ttft in ttfts.items() if ttft is not None}
    return sorted(served, key=lambda name: (-served[name], name))[:limit]


def adapter_cells(summary: PolicySummary, adapter: str) -> list[str]:
    """Requests per seed, then the figures of ``COLUMNS``."""
    figures = ((_figure(summary, adapter, metric), scale) for _, metric, scale in COLUMNS)
    cells = [compact(None if figure is None else figure * scale) for figure, scale in figures]
    return [count(_figure(summary, adapter, "num_prompts")), *cells]


def adapter_table(summary: PolicySummary, limit: int = WORST_ADAPTERS) -> Table | None:
    """The slowest adapters as a table; None when fewer than two finished anything."""
    served = slowest_adapters(summary, len(summary.per_adapter))
    if len(served) < 2:
        return None
    worst = served[:limit]
    title = Text(f"Slowest {len(worst)} of {len(served):,} adapters under {summary.policy}", style="bold")
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1)
    )
    table.add_column("adapter", overflow="ellipsis", max_width=20, no_wrap=True)
    table.add_column("requests\nper seed", justify="right", no_wrap=True)
    for header, _, _ in COLUMNS:
        table.add_column(header, justify="right", no_wrap=True)
    for name in worst:
        table.add_row(name, *adapter_cells(summary, name))
    return table


def _figure(summary: PolicySummary, adapter: str, metric: str) -> float | None:
    return summary.per_adapter[adapter].get(metric, Estimate(None)).mean
