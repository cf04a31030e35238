"""The commands `libra workload make|convert|inspect`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from libra.spec import DEFAULT_BLOCK_TOKENS
from workloads.adapters import DEFAULT_RANKS
from workloads.demand import Demand

if TYPE_CHECKING:
    from rich.status import Status

    from workloads.trace import Trace

workload_app = typer.Typer(help="Make, convert and inspect workload traces.", no_args_is_help=True)


class OutputFormat(StrEnum):
    """How an inspection is printed."""

    TABLE = "table"
    JSON = "json"


OutFile = Annotated[Path, typer.Option("--out", help="The trace file to write.")]
Popularity = Annotated[
    str | None,
    typer.Option(
        help="zipf:S, gaussian:STD, uniform, distinct or identical; drawn per session. zipf:1.0 when left out."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]


@workload_app.command()
def make(
    name: Annotated[str, typer.Argument(help="chatbot, translation or agents.", metavar="NAME")],
    out: OutFile,
    num_loras: Annotated[int, typer.Option(help="Number of adapters.")] = Demand.num_adapters,
    request_rate: Annotated[float, typer.Option(help="Requests per second over the run.")] = Demand.request_rate,
    duration: Annotated[float, typer.Option(help="Length of the run in seconds.")] = Demand.duration_s,
    seed: Seed = Demand.seed,
    popularity: Popularity = Demand.popularity,
    arrivals: Annotated[str, typer.Option(help="poisson, gamma:CV or azure-functions:FILE@MINUTE.")] = Demand.arrivals,
    burstiness: Annotated[
        float, typer.Option(help="Gamma shape of the gaps: 1 is Poisson, less is burstier, inf constant.")
    ] = Demand.burstiness,
) -> None:
    """Generate a trace after one of the paper's scenarios."""
    from workloads.registry import WORKLOADS

    demand = Demand(num_loras, request_rate, duration, seed, popularity, arrivals, burstiness)
    workload = WORKLOADS[name]
    with _status(f"generating {name}"):
        trace = workload.generate(demand)
    _save(trace, out)


@workload_app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="The published trace.", metavar="FILE")],
    out: OutFile,
    trace_format: Annotated[
        str | None, typer.Option("--format", help="mooncake; recognised from the first row when left out.")
    ] = None,
    num_loras: Annotated[int | None, typer.Option(help="Number of adapters to draw, 50 when left out.")] = None,
    seed: Seed = Demand.seed,
    popularity: Popularity = None,
    request_rate: Annotated[
        float | None, typer.Option(help="Stretch time to this many requests per second; no request is dropped.")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Keep this many seconds from the start.")] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Cut longer prompts to their beginning.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="Cut longer answers.")] = None,
) -> None:
    """Convert a published trace to libra's format, drawing the adapters it lacks."""
    from workloads.load import convert_trace, load_trace
    from workloads.registry import FORMATS
    from workloads.transform import reshape

    reader = None if trace_format is None else FORMATS[trace_format]
    with _status(f"converting {file.name}"):
        if reader is None:
            trace = load_trace(file, num_loras, popularity, seed)
        else:
            trace = convert_trace(reader, file, num_loras, popularity, seed)
        trace = reshape(trace, request_rate, duration, max_prompt_tokens, max_output_tokens)
    _save(trace, out)


@workload_app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A libra trace, or a published one.", metavar="FILE")],
    model: Annotated[str, typer.Option(help="Model preset for the working set.")] = "llama3-8b",
    ranks: Annotated[str, typer.Option(help="Ranks in turn, where the trace gives none.")] = DEFAULT_RANKS,
    block_size: Annotated[int, typer.Option(min=1, help="Tokens per block.")] = DEFAULT_BLOCK_TOKENS,
    num_loras: Annotated[int | None, typer.Option(help="Adapters to draw for a published trace.")] = None,
    seed: Seed = Demand.seed,
    popularity: Popularity = None,
    output_format: Annotated[OutputFormat, typer.Option("--format", help="What to print.")] = OutputFormat.TABLE,
) -> None:
    """Show on one screen what a trace asks of a cache, and where its fields come from."""
    import sys

    from rich.console import Console

    from bench.table import print_safely
    from bench.workload_table import inspection_json, inspection_table
    from libra.spec import MODELS
    from workloads.adapters import parse_ranks
    from workloads.inspection import inspect_trace
    from workloads.load import load_trace

    spec, parsed_ranks = MODELS[model], parse_ranks(ranks)
    with _status(f"reading {file.name}"):
        trace = load_trace(file, num_loras, popularity, seed)
        inspection = inspect_trace(trace, spec, parsed_ranks, block_size)
    if output_format is OutputFormat.TABLE:
        print_safely(Console(), inspection_table(inspection))
    else:
        sys.stdout.write(inspection_json(inspection) + "\n")


def _status(message: str) -> "Status":
    from rich.console import Console

    return Console(stderr=True).status(message)


def _save(trace: "Trace", out: Path) -> None:
    """Writes the trace and says so in one line; warnings and counts go to stderr."""
    from workloads.trace import write_trace

    with _status(f"writing {out.name}"):
        write_trace(out, trace)
    header = trace.header
    for warning in header.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for reason, count in header.counts.items():
        if count:
            typer.echo(f"{reason.replace('_', ' ')}: {count:,}", err=True)
    typer.echo(
        f"{out}: {len(trace.requests):,} requests, {len(header.adapters)} adapters, "
        f"{header.duration_s:g} s at {trace.request_rate:.2f} req/s"
    )
