"""How the simulator's cost per request grows with adapters and with requests.

`python -m bench.micro.scaling`: 20 to 2,000 adapters, 10,000 to 100,000 requests of chatbot at 5 req/s, simulated h800
and llama3-8b; `--full` goes on to a million requests. Every size runs in a process of its own, so that its memory is
its own. Writes scaling.csv, row by row, and scaling.json with the slopes. Run it on an idle machine.
"""

import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from baselines import POLICIES
from bench.documents import to_json
from bench.machine import describe_machine, source_revision
from bench.output import csv_text
from bench.study_output import replace_text
from libra.engine.build import CacheSizes, build_simulated_engine, default_hbm_bytes
from libra.engine.profile import datasheet_profile
from libra.engine.replay import replay
from libra.spec import DEVICES, GIB, MODELS, AdapterSpec
from workloads.demand import Demand
from workloads.garbage import collection_paused
from workloads.registry import find_workload

DEVICE, MODEL = DEVICES["h800"], MODELS["llama3-8b"]
BLOCK_TOKENS = 32
REQUEST_RATE = 5.0
HOST_BYTES = 256 * GIB
ADAPTERS = (20, 200, 2_000)
REQUESTS = (10_000, 30_000, 100_000)
FULL_REQUESTS = (*REQUESTS, 300_000, 1_000_000)


@dataclass(frozen=True)
class Size:
    """One point: so many requests over so many adapters under one policy. ``axis``: what its neighbours vary."""

    axis: str
    policy: str
    num_adapters: int
    num_requests: int


@dataclass(frozen=True)
class Cost:
    """What simulating a size took. ``cpu_s``: process time of the replay alone, the trace's making left out.
    ``peak_rss_mib``: of the whole process, trace and results included."""

    axis: str
    policy: str
    num_adapters: int
    num_requests: int
    num_steps: int
    cpu_s: float
    us_per_request: float
    peak_rss_mib: float


def plan(policy: str, adapters: Sequence[int], requests: Sequence[int]) -> list[Size]:
    """Each axis at the other's smallest: adapters first, then requests over 50 adapters, the paper's middle."""
    by_adapters = [Size("adapters", policy, count, min(requests)) for count in adapters]
    return by_adapters + [Size("requests", policy, 50, count) for count in requests]


def measure_size(size: Size) -> Cost:
    """Simulates one size here and now."""
    # Sessions at the end of a trace are cut short: with some seconds more there are requests enough.
    demand = Demand(
        num_adapters=size.num_adapters,
        request_rate=REQUEST_RATE,
        duration_s=1.1 * size.num_requests / REQUEST_RATE + 600.0,
    )
    trace = find_workload("chatbot").generate(demand)
    requests = list(islice(trace.requests, size.num_requests))
    specs = [AdapterSpec(name, 32 if number % 2 else 64) for number, name in enumerate(trace.header.adapters)]
    hbm_bytes = default_hbm_bytes(DEVICE, MODEL, 1)
    sizes = CacheSizes.from_bytes(hbm_bytes, HOST_BYTES, MODEL.block_bytes(BLOCK_TOKENS))
    engine = build_simulated_engine(POLICIES[size.policy], MODEL, specs, sizes, datasheet_profile(DEVICE, MODEL, 1))
    with collection_paused():  # as `libra bench` does
        started_s = process_time()
        result = replay(engine, requests)
        cpu_s = process_time() - started_s
    return Cost(
        **asdict(size) | {"num_requests": len(requests)},
        num_steps=int(result.counters["num_steps"]),
        cpu_s=round(cpu_s, 3),
        us_per_request=round(1e6 * cpu_s / len(requests), 1),
        peak_rss_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )


def slope(costs: Sequence[Cost], axis: str) -> float | None:
    """Exponent of the cost per request over ``axis``, by least squares on logarithms: 0 where a request costs the same
    at every size, 1 where its cost grows in proportion. None with fewer than two sizes."""
    points = [(getattr(cost, f"num_{axis}"), cost.us_per_request) for cost in costs if cost.axis == axis]
    if len({count for count, _ in points}) < 2:
        return None
    counts, costs_us = np.log(np.array(points, dtype=np.float64)).T
    return round(float(np.polyfit(counts, costs_us, 1)[0]), 3)


def report(costs: Sequence[Cost]) -> dict[str, Any]:
    """The document of scaling.json."""
    slopes = {axis: slope(costs, axis) for axis in ("adapters", "requests")}
    about = {"machine": describe_machine(), "source": source_revision()}
    return {"slopes_of_cost_per_request": slopes, **about, "rows": [asdict(cost) for cost in costs]}


def as_table(costs: Sequence[Cost]) -> Table:
    table = Table(title="What simulating a request costs")
    for heading in ("axis", "policy", "adapters", "requests", "CPU s", "us/request", "peak MiB"):
        table.add_column(heading, justify="left" if heading in ("axis", "policy") else "right")
    for cost in costs:
        sizes = (cost.axis, cost.policy, f"{cost.num_adapters:,}", f"{cost.num_requests:,}")
        table.add_row(*sizes, f"{cost.cpu_s:.2f}", f"{cost.us_per_request:.0f}", f"{cost.peak_rss_mib:.0f}")
    return table


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{text!r} is not a list of numbers above 0, such as 20,200,2000")
    return numbers


def main(
    policy: Annotated[str, typer.Option(help="Any policy of `libra policies`.")] = "fastlibra",
    adapters: Annotated[str, typer.Option(help="Numbers of adapters.")] = ",".join(map(str, ADAPTERS)),
    requests: Annotated[
        str | None, typer.Option(help="Numbers of requests.", show_default="10000,30000,100000")
    ] = None,
    full: Annotated[bool, typer.Option(help="Up to a million requests: takes long.")] = False,
    out: Annotated[Path, typer.Option(help="Directory for scaling.csv and scaling.json.")] = Path("runs/scaling"),
) -> None:
    """Simulates each size in turn and prints costs and slopes."""
    if policy not in POLICIES:
        raise typer.BadParameter(f"unknown policy {policy!r}; known: {', '.join(POLICIES)}")
    default = FULL_REQUESTS if full else REQUESTS
    sizes = plan(policy, _numbers(adapters), default if requests is None else _numbers(requests))
    console, costs = Console(), list[Cost]()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for cost in pool.map(measure_size, sizes):
            costs.append(cost)
            replace_text(out / "scaling.csv", csv_text([asdict(each) for each in costs]))
            replace_text(out / "scaling.json", to_json(report(costs), indent=1) + "\n")
            console.print(f"{cost.num_adapters:,} adapters, {cost.num_requests:,} requests: {cost.cpu_s:.2f} s")
    console.print(as_table(costs))
    for axis, exponent in report(costs)["slopes_of_cost_per_request"].items():
        console.print(f"cost per request over {axis}: exponent {exponent}")


if __name__ == "__main__":
    typer.run(main)
