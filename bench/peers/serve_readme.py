"""results/serve/README.md, made of the rows beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.format import with_interval
from bench.statistics import estimate

Rows = Sequence[Mapping[str, Any]]

INTRODUCTION = """# libra serve beside vLLM, on CPU

`{command}`: the same chatbot traffic, sent open loop by
`libra replay` to one server after the other, each alone on the machine ({cpu}, {cores} cores), with the same random
model and adapters, {dtype}. libra {libra}, vLLM {vllm}. Means over {repeats} seeds{intervals}.
summary.csv has every replay, compare.csv what `libra compare` says of the requests in pairs, requests.csv.gz every
request, meta.json versions and machine; agreement.csv, if there, what three load generators measure of one libra server
(`python -m bench.peers.agreement`). What `VLLM` and `DIR` are: [bench/peers](../../bench/peers/README.md).

vLLM's adapter kernels for CPU are slow in mixed batches: at the load without adapters it would fall behind, so the load
with adapters is lighter. This says what the two do on this CPU, and nothing of either on a GPU.
"""
# With two, the 95 % interval is 12.7 standard errors wide to either side and says nothing.
LEAST_SEEDS = 3
COLUMNS = (
    ("mean_ttft_ms", "mean TTFT, ms"),
    ("p95_ttft_ms", "p95 TTFT, ms"),
    ("mean_tpot_ms", "mean TPOT, ms"),
    ("mean_e2el_ms", "mean E2E latency, ms"),
    ("output_throughput", "output tokens/s"),
)


def serve_readme(summary: Rows, meta: Mapping[str, Any]) -> str:
    """The page: one table for each load, servers as columns. Takes the rows of summary.csv as they were or as read."""
    machine, seeds = meta["machine"], {row["seed"] for row in summary}
    parts = [
        INTRODUCTION.format(
            command=meta["command"],
            cpu=machine["cpu"],
            cores=machine["cores"],
            dtype=meta["dtype"],
            repeats=len(seeds),
            intervals=" with 95 % Student t intervals" if len(seeds) >= LEAST_SEEDS else ", too few for intervals",
            **meta["servers"],
        )
    ]
    for name, load in meta["loads"].items():
        rows = [row for row in summary if row["load"] == name]
        parts += [f"## {name}\n\n`libra replay {load['replay']}`, seeds 0 to {len(seeds) - 1}\n", _table(rows)]
        invalid = [
            f"{row['server']}, seed {row['seed']}: {row['reasons']}" for row in rows if not _is_true(row["valid"])
        ]
        if invalid:
            parts.append("INVALID by the load generator's own judgement: " + "; ".join(invalid) + "\n")
    return "\n".join(parts)


def _table(rows: Rows) -> str:
    servers = list(dict.fromkeys(str(row["server"]) for row in rows))
    lines = ["| | " + " | ".join(servers) + " |", "|---" * (len(servers) + 1) + "|"]
    for metric, title in COLUMNS:
        cells = []
        for server in servers:
            values = [float(row[metric]) for row in rows if row["server"] == server and row[metric] not in (None, "")]
            figure = estimate(values)
            cells.append(with_interval(figure.mean, figure.half_width if len(values) >= LEAST_SEEDS else None))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    answered = [sum(int(float(row["completed"])) for row in rows if row["server"] == server) for server in servers]
    lines.append("| requests answered | " + " | ".join(map(str, answered)) + " |")
    return "\n".join(lines) + "\n"


def _is_true(value: object) -> bool:
    return str(value) == "True"
