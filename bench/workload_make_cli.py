"""The command `libra workload make`."""

from typing import Annotated

import typer

from bench.scenario import SCENARIO_HELP
from bench.workload_options import OutFile, Popularity, Seed, save_trace, status
from libra.errors import LibraError
from workloads.demand import ARRIVAL_FORMS, SCALE_ADAPTERS, Demand


def make(
    out: OutFile,
    workload: Annotated[
        str | None,
        typer.Argument(help="chatbot, chatbot-33k, translation, agents, agent-graph[:MODEL] or scale.", metavar="NAME"),
    ] = None,
    # ScenarioCommand reads the file; its options arrive as the other parameters.
    scenario: Annotated[str | None, typer.Option(help=SCENARIO_HELP)] = None,
    num_loras: Annotated[
        int | None,
        typer.Option(help=f"Number of adapters.  [default: {Demand.num_adapters}, of scale {SCALE_ADAPTERS:,}]"),
    ] = None,
    request_rate: Annotated[float, typer.Option(help="Requests per second over the run.")] = Demand.request_rate,
    duration: Annotated[float, typer.Option(help="Length of the run in seconds.")] = Demand.duration_s,
    seed: Seed = Demand.seed,
    popularity: Popularity = Demand.popularity,
    arrivals: Annotated[str, typer.Option(help=ARRIVAL_FORMS)] = Demand.arrivals,
    burstiness: Annotated[
        float, typer.Option(help="Gamma shape of the gaps: 1 is Poisson, less is burstier, inf constant.")
    ] = Demand.burstiness,
) -> None:
    """Generate a trace after one of the paper's scenarios."""
    from workloads.registry import WORKLOADS, find_workload

    if workload is None:
        raise LibraError(f"name a workload ({', '.join(WORKLOADS)}) or a --scenario that has one")
    generator = find_workload(workload)
    if num_loras is None:
        num_loras = generator.num_adapters or Demand.num_adapters
    demand = Demand(num_loras, request_rate, duration, seed, popularity, arrivals, burstiness)
    with status(f"generating {workload}"):
        trace = generator.generate(demand)
    save_trace(trace, out)
