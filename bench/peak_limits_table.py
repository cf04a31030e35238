"""README.md of `python -m bench.peak_limits`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.format import MISSING, compact
from bench.reproduce.ratios import as_change, ratio_of_lists

Row = Mapping[str, Any]

_CAUSES = {
    "HBM": ("waiting_saves", "waiting_hbm"),
    "seats": ("waiting_seats",),
    "tokens": ("waiting_tokens",),
    "turn": ("waiting_turn",),
}
RARE = 0.1
_HEAD = """\
# What bounds the peak load of libra and fastlibra

`python -m bench.peak_limits`: peaks (mean TTFT < 500 ms) of one seed in steps of 2 %, from those of
[../libra](../libra) in steps of 10 %; simulated on h800 from datasheet rates, llama3-8b, 50 adapters.

## At the lowest rate that fails

Averages from the warm-up to the last arrival. Waits for: the share of the waiting requests that wait for room in HBM
(saves of evicted blocks among it), for a seat in the batch of 256, for tokens of a step (2,048, so for computing), or
for their turn, behind one that waits for HBM and may be passed no longer. Held: HBM that admitted requests keep, of
which adapters. Used: of the device's flops, of its memory bandwidth, and of the link from host memory."""
_LIMIT_COLUMNS = (
    "cell",
    "policy",
    "req/s",
    "TTFT ms",
    "queue ms",
    "waits for",
    "admitted",
    "held",
    "adapters",
    "step ms",
    "tokens",
    "flops",
    "bandwidth",
    "link",
    "preempted",
)
_PEAKS = """\
## Peaks

In req/s, and over fastlibra's; means are geometric, over the cells that a column has. clairvoyant-in-time: perfect
victims with libra's order and timing. Endless: memory of ten working sets and a link that takes no time, whatever the
cell's own, with each policy's order and timing; what stays is computing, and 256 seats. Requests differ from rate to
rate, so one seed's peak is uncertain by several steps."""


def readme_text(looks: Sequence[Row], peaks: Sequence[Row], endless_cache: float) -> str:
    """``looks``: a row per policy and cell, as limits.csv has them. ``peaks``: a search each, as cells.csv has them."""
    limits = _table(_LIMIT_COLUMNS, 2, map(_limit_cells, looks))
    return f"{_HEAD}\n\n{limits}\n\n{_PEAKS}\n\n{_peak_table(peaks, endless_cache)}\n"


def bound_by(look: Row) -> str:
    """What those who wait wait for, the most frequent first, with the share of them; what is rare is left out."""
    waiting = {cause: sum(float(look[name]) for name in names) for cause, names in _CAUSES.items()}
    total = sum(waiting.values()) or 1.0
    often = sorted((cause for cause in waiting if waiting[cause] > RARE * total), key=lambda one: -waiting[one])
    return ", ".join(f"{cause} {waiting[cause] / total:.0%}" for cause in often) or MISSING


def _limit_cells(look: Row) -> list[str]:
    def share(name: str) -> str:
        return f"{float(look[name]):.0%}"

    def figure(name: str) -> str:
        return compact(float(look[name]))

    return [
        _cell(look),
        look["policy"],
        *(figure(name) for name in ("rate", "mean_ttft_ms", "mean_queue_ms")),
        bound_by(look),
        figure("admitted"),
        share("held"),
        share("held_by_adapters"),
        *(figure(name) for name in ("step_ms", "tokens_per_step")),
        *(share(name) for name in ("flops_used", "bandwidth_used", "link_in_used")),
        f"{float(look['preemptions_per_s']) / float(look['rate']):.0%}",
    ]


def _peak_table(peaks: Sequence[Row], endless_cache: float) -> str:
    """A row per cell, and what each policy's peaks come to over all of them."""
    found = [{**row, "peak": float(row["peak_load_rps"])} for row in peaks if row["peak_load_rps"]]
    by_cell: dict[str, dict[str, float]] = {}
    for row in found:
        if float(row["cache"]) != endless_cache:
            by_cell.setdefault(_cell(row), {})[row["policy"]] = row["peak"]
    for row in found:
        if float(row["cache"]) == endless_cache:
            for cell, there in by_cell.items():
                if cell.startswith(f"{row['workload']},"):
                    there[f"{row['policy']}, endless"] = row["peak"]
    names = list(dict.fromkeys(name for there in by_cell.values() for name in there))
    rows = [[cell, *(_with_change(there, name, names[0]) for name in names)] for cell, there in by_cell.items()]
    means = []
    for name in names[1:]:
        both = [(there[name], there[names[0]]) for there in by_cell.values() if {name, names[0]} <= there.keys()]
        change = as_change(ratio_of_lists(*map(list, zip(*both, strict=True))))
        means.append(MISSING if change.mean is None else f"{change.mean:+.1f} %")
    return _table(("cell", *names), 1, [*rows, ["mean", MISSING, *means]])


def _with_change(found: Mapping[str, float], name: str, base: str) -> str:
    if name not in found or base not in found:
        return MISSING
    if name == base:
        return compact(found[name])
    return f"{compact(found[name])} ({100 * (found[name] / found[base] - 1):+.0f} %)"


def _cell(row: Row) -> str:
    host = "host unbounded" if row["host_gib"] == "unbounded" else f"host {row['host_gib'].split()[0]}"
    return f"{row['workload']}, cache {float(row['cache']):g}, {host}"


def _table(columns: Sequence[str], num_texts: int, rows: Iterable[Sequence[str]]) -> str:
    """Markdown; all but the first ``num_texts`` columns hold figures."""
    rule = ["---"] * num_texts + ["---:"] * (len(columns) - num_texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))
