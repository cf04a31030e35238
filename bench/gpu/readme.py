"""The README of a GPU's results, made of nothing but its rows and its meta.json."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

Row = Mapping[str, str]

_KEY = (
    "Kernels, steps and swaps: median time in us and, in brackets, the floor's share of it. The floor is the least "
    "bytes over this device's measured bandwidth, or flops over its measured rate. Every row was checked against a "
    "reference before it was timed."
)
_ENGINE_KEY = (
    "The engine on this device beside its simulation with the profile measured on it, cache half the working set, "
    "times in ms."
)
_ENGINE_METRICS = ("mean_step_ms", "mean_ttft_ms", "p95_ttft_ms", "mean_tpot_ms", "p95_tpot_ms", "adapter_hit_rate")


def readme_text(rows: Sequence[Row], meta: Mapping[str, Any], validation: Sequence[Row] = ()) -> str:
    """Markdown: where and how, what each stage came to, the engine measured and simulated, and one table per kernel.
    ``validation`` are the rows of `libra validate`."""
    lines = [
        f"# {meta['device']}",
        "",
        f"Made by `{meta['command']}` on {meta['created']}, source {_source(meta['source'])}; do not edit.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in meta['versions'].items() if version)}.",
        "",
        "| stage | | seconds | |",
        "|---|---|---|---|",
        *(f"| {s['name']} | {s['status']} | {s['seconds']:.0f} | {_escape(s['detail'])} |" for s in meta["stages"]),
        "",
    ]
    if validation:
        lines += [_ENGINE_KEY, "", *_engine_table(validation), ""]
    if rows:
        lines += [_KEY, "", *_overview(rows)]
    for kernel in dict.fromkeys((row["kernel"], row["dtype"]) for row in rows):
        lines += ["", *_kernel_table(*kernel, [row for row in rows if (row["kernel"], row["dtype"]) == kernel])]
    return "\n".join(lines) + "\n"


def _engine_table(validation: Sequence[Row]) -> list[str]:
    """Metrics down, policies across: measured -> simulated."""
    policies = list(dict.fromkeys(row["policy"] for row in validation))
    cells = {
        (row["metric"], row["policy"]): f"{_short(row['real'])} → {_short(row['simulated'])}" for row in validation
    }
    lines = [f"| measured → simulated | {' | '.join(policies)} |", "|---" * (len(policies) + 1) + "|"]
    known = [metric for metric in _ENGINE_METRICS if any((metric, policy) in cells for policy in policies)]
    return lines + [f"| {m} | {' | '.join(cells.get((m, policy), '') for policy in policies)} |" for m in known]


def _short(figure: str) -> str:
    return f"{float(figure):.3g}" if figure else "-"


def _overview(rows: Sequence[Row]) -> list[str]:
    """Per kernel and implementation: rows, failed checks, and how near the floor."""
    lines = ["| kernel | implementation | dtype | rows | failed checks | share of floor, median (least) |"]
    lines += ["|---|---|---|---|---|---|"]
    for key in dict.fromkeys((row["kernel"], row["implementation"], row["dtype"]) for row in rows):
        own = [row for row in rows if (row["kernel"], row["implementation"], row["dtype"]) == key]
        shares = [float(row["of_floor"]) for row in own if row["of_floor"]]
        failed = sum(row["check"] != "ok" for row in own)
        share = f"{median(shares):.2f} ({min(shares):.2f})" if shares else "not timed"
        lines.append(f"| {' | '.join(key)} | {len(own)} | {failed} | {share} |")
    return lines


def _kernel_table(kernel: str, dtype: str, rows: Sequence[Row]) -> list[str]:
    """Shapes down, implementations across."""
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    cells = {(row["shape"], row["implementation"]): _cell(row) for row in rows}
    lines = [f"## {kernel}, {dtype}", "", f"| shape | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    shapes = dict.fromkeys(row["shape"] for row in rows)
    return lines + [f"| {shape} | {' | '.join(cells.get((shape, name), '') for name in names)} |" for shape in shapes]


def _cell(row: Row) -> str:
    if row["check"] != "ok":
        return f"wrong: error {row['error']}"
    return f"{row['median_us']} ({row['of_floor']})" if row["median_us"] else "not timed"


def _source(source: Mapping[str, Any]) -> str:
    commit = source.get("commit")
    return "unknown" if commit is None else f"{commit[:12]}{' with changes' if source.get('dirty') else ''}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
