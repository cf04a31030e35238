"""The screen of `libra workload inspect`."""

import json
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.format import MISSING, compact, count
from libra.spec import GIB
from workloads.inspection import Inspection
from workloads.memory_demand import LARGE_CHANGE, PAPER_LARGE_SHARE, PAPER_MEAN_CHANGE
from workloads.service import ServiceTime
from workloads.statistics import DISPERSION_WINDOWS_S, PERCENTILES, TOP_ADAPTERS, Spread

SCHEMA_VERSION = 2


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
    return json.dumps({"schema_version": SCHEMA_VERSION, **inspection_row(inspection)}, allow_nan=False)


def inspection_row(inspection: Inspection) -> dict[str, Any]:
    """Every figure of an inspection by name; None where the trace is too short to have it."""
    found, demand = inspection.working_set, inspection.memory_demand
    return {
        "name": inspection.header.name,
        "seed": inspection.header.seed,
        **asdict(inspection.header.provenance),
        **asdict(inspection.statistics),
        "prefix_hit_rate": inspection.prefix_hits.rate,
        "model": inspection.model,
        "block_tokens": inspection.block_tokens,
        "working_set_gib": found.gib,
        "working_set_kv_blocks": found.kv_blocks,
        "working_set_adapter_blocks": found.adapter_blocks,
        "mean_adapters_in_flight": float(demand.adapters_in_flight.mean()),
        "mean_demand_gib": float((demand.adapter_bytes + demand.kv_bytes).mean()) / GIB,
        "memory_change_per_adapter": asdict(demand.per_adapter),
        "memory_change_together": asdict(demand.together),
        "counts": dict(inspection.header.counts),
        "warnings": list(inspection.warnings),
    }


def percent(value: float | None) -> str:
    """``48.1 %``; a missing value is a dash."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def _facts(inspection: Inspection) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in (*_traffic_rows(inspection), *_cache_rows(inspection)):
        table.add_row(label, value)
    return table


def _traffic_rows(inspection: Inspection) -> list[tuple[str, str]]:
    statistics = inspection.statistics
    dispersion = " / ".join(compact(value) for value in statistics.dispersion)
    windows = "/".join(str(width) for width in DISPERSION_WINDOWS_S)
    tops = "/".join(str(top) for top in TOP_ADAPTERS)
    shares = " / ".join(f"{share:.0%}" for share in statistics.top_shares)
    slope = compact(statistics.popularity_slope)
    adapters = compact(float(inspection.memory_demand.adapters_in_flight.mean()))
    service = f"{ServiceTime.first_token_s:g} s + {ServiceTime.per_token_s:g} s a token"
    return [
        ("rate", f"{compact(statistics.request_rate)} req/s"),
        ("gap CV", f"{compact(statistics.gap_cv)}  (Poisson 1)"),
        ("dispersion", f"{dispersion}  of counts in {windows} s  (Poisson 1)"),
        ("sessions", f"{count(statistics.num_sessions)}"),
        ("adapters", f"{count(statistics.num_adapters)}, {count(statistics.adapters_used)} of them used"),
        ("popularity", f"slope {slope} (least squares, log-log); top {tops}: {shares}"),
        (
            "in flight",
            f"{compact(statistics.mean_in_flight)} requests of {adapters} adapters, "
            f"peak {count(statistics.peak_in_flight)} ({service})",
        ),
    ]


def _cache_rows(inspection: Inspection) -> list[tuple[str, str]]:
    found, demand = inspection.working_set, inspection.memory_demand
    block_gib = found.block_bytes / GIB
    each, together = demand.per_adapter, demand.together
    return [
        (
            "prefix hits",
            f"{percent(inspection.prefix_hits.rate)} of prompt tokens, infinite cache, (adapter, block) keys",
        ),
        (
            "working set",
            f"{found.gib:.1f} GiB on {inspection.model}: KV of live sessions {found.kv_blocks * block_gib:.1f}, "
            f"adapters {found.adapter_blocks * block_gib:.1f}",
        ),
        (
            "memory change",
            f"{percent(each.mean)} a second per adapter, {percent(each.large_share)} of changes above "
            f"{LARGE_CHANGE:.0%}\n"
            f"(paper: {percent(PAPER_MEAN_CHANGE)}, {percent(PAPER_LARGE_SHARE)}); "
            f"all together {percent(together.mean)}, {percent(together.large_share)}",
        ),
    ]


def _lengths(inspection: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", style="bold", no_wrap=True)
    for name in ("mean", *(f"p{percentile}" for percentile in PERCENTILES), "max"):
        table.add_column(name, justify="right", header_style="bold cyan", no_wrap=True)
    for label, spread in (
        ("turns per session", inspection.statistics.turns),
        ("prompt tokens", inspection.statistics.prompt_tokens),
        ("new tokens a turn", inspection.statistics.new_tokens),
        ("output tokens", inspection.statistics.output_tokens),
    ):
        table.add_row(label, *_spread_cells(spread))
    return table


def _spread_cells(spread: Spread) -> list[str]:
    return [compact(spread.mean), *(count(round(value)) for value in spread.percentiles), count(spread.maximum)]


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
