"""The screen of `libra workload inspect`."""

import json
from dataclasses import asdict

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.format import compact, count
from libra.spec import GIB
from workloads.inspection import Inspection
from workloads.statistics import DISPERSION_WINDOWS_S, PERCENTILES, TOP_ADAPTERS, Spread

SCHEMA_VERSION = 1


def inspection_table(inspection: Inspection) -> RenderableType:
    """One screen of 80 columns: what the trace is, its traffic, its lengths, and what it asks of a cache."""
    header, statistics = inspection.header, inspection.statistics
    title = Text(header.name, style="bold")
    title.append(
        f"  {count(statistics.num_requests)} requests in {header.duration_s:g} s, seed {header.seed}", style="dim"
    )
    parts: list[RenderableType] = [
        Text(),
        title,
        Text(),
        _facts(inspection),
        Text(),
        _lengths(inspection),
        Text(),
        _provenance(inspection),
    ]
    parts += [Text(f"warning: {warning}", style="bold red") for warning in inspection.warnings]
    return Group(*parts)


def inspection_json(inspection: Inspection) -> str:
    """The same as one JSON object on one line, for scripts."""
    statistics, found = inspection.statistics, inspection.working_set
    row = {
        "schema_version": SCHEMA_VERSION,
        "name": inspection.header.name,
        "seed": inspection.header.seed,
        **asdict(inspection.header.provenance),
        **asdict(statistics),
        "prefix_hit_rate": inspection.prefix_hits.rate,
        "model": inspection.model,
        "block_tokens": inspection.block_tokens,
        "working_set_gib": found.gib,
        "working_set_kv_blocks": found.kv_blocks,
        "working_set_adapter_blocks": found.adapter_blocks,
        "counts": dict(inspection.header.counts),
        "warnings": list(inspection.warnings),
    }
    return json.dumps(row, allow_nan=False)


def _facts(inspection: Inspection) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _fact_rows(inspection):
        table.add_row(label, value)
    return table


def _fact_rows(inspection: Inspection) -> list[tuple[str, str]]:
    statistics, found = inspection.statistics, inspection.working_set
    dispersion = " / ".join(compact(value) for value in statistics.dispersion)
    windows = "/".join(str(width) for width in DISPERSION_WINDOWS_S)
    tops = "/".join(str(top) for top in TOP_ADAPTERS)
    shares = " / ".join(f"{share:.0%}" for share in statistics.top_shares)
    block_gib = found.block_bytes / GIB
    return [
        ("rate", f"{compact(statistics.request_rate)} req/s"),
        ("gap CV", f"{compact(statistics.gap_cv)}  (Poisson 1)"),
        ("dispersion", f"{dispersion}  over {windows} s  (Poisson 1)"),
        ("sessions", f"{count(statistics.num_sessions)}"),
        ("adapters", f"{count(statistics.num_adapters)}, {count(statistics.adapters_used)} of them used"),
        ("popularity", f"slope {compact(statistics.popularity_slope)} (log-log); top {tops}: {shares} of requests"),
        (
            "prefix hits",
            f"{inspection.prefix_hits.rate:.1%} of prompt tokens in an infinite cache, (adapter, block) keys",
        ),
        (
            "working set",
            f"{found.gib:.1f} GiB on {inspection.model}: KV of live sessions {found.kv_blocks * block_gib:.1f}, "
            f"adapters {found.adapter_blocks * block_gib:.1f}",
        ),
    ]


def _lengths(inspection: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", style="bold", no_wrap=True)
    for name in ("mean", *(f"p{percentile}" for percentile in PERCENTILES), "max"):
        table.add_column(name, justify="right", header_style="bold cyan", no_wrap=True)
    for label, spread in (
        ("turns per session", inspection.statistics.turns),
        ("prompt tokens", inspection.statistics.prompt_tokens),
        ("output tokens", inspection.statistics.output_tokens),
    ):
        table.add_row(label, *_spread_cells(spread))
    return table


def _spread_cells(spread: Spread) -> list[str]:
    return [compact(spread.mean), *(count(value) for value in spread.percentiles), count(spread.maximum)]


def _provenance(inspection: Inspection) -> Text:
    sources = inspection.header.provenance
    text = Text(
        f"adapters {sources.adapter_source} · arrivals {sources.arrival_source} · "
        f"lengths {sources.length_source} · prefixes {sources.prefix_source}",
        style="dim",
    )
    for reason, number in inspection.header.counts.items():
        if number:
            text.append(f"\n{reason.replace('_', ' ')}: {number:,}")
    return text
