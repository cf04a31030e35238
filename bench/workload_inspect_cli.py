"""The command `libra workload inspect`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.workload_options import OutputFormat, Popularity, Seed, status
from libra.spec import DEFAULT_BLOCK_TOKENS
from workloads.adapters import DEFAULT_RANKS
from workloads.demand import Demand


def inspect(
    file: Annotated[Path, typer.Argument(help="A libra trace, or a published one.", metavar="FILE")],
    compare: Annotated[
        Path | None, typer.Option(help="Put this trace beside it, with the distances of their distributions.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Folder for PNGs: arrivals, popularity, lengths, turns, memory.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model preset for the working set.")] = "llama3-8b",
    ranks: Annotated[str, typer.Option(help="Ranks in turn, where the trace gives none.")] = DEFAULT_RANKS,
    block_size: Annotated[int, typer.Option(min=1, help="Tokens per block.")] = DEFAULT_BLOCK_TOKENS,
    num_loras: Annotated[int | None, typer.Option(help="Adapters to draw for a published trace.")] = None,
    seed: Seed = Demand.seed,
    popularity: Popularity = None,
    output_format: Annotated[OutputFormat, typer.Option("--format", help="What to print.")] = OutputFormat.TABLE,
) -> None:
    """Show on one screen what a trace asks of a cache, where its fields come from, and what it is not.

    With --compare, two traces side by side.
    """
    from rich.console import Console

    from bench.table import print_safely
    from bench.workload_comparison import comparison_json, comparison_table
    from bench.workload_plots import require_matplotlib, save_plots
    from bench.workload_table import inspection_json, inspection_table
    from libra.spec import MODELS
    from workloads.adapters import parse_ranks
    from workloads.comparison import compare_inspections
    from workloads.inspection import Inspection, inspect_trace
    from workloads.load import load_trace

    spec, parsed_ranks = MODELS[model], parse_ranks(ranks)
    if plot is not None:
        require_matplotlib()

    def inspected(path: Path) -> Inspection:
        with status(f"inspecting {path.name}"):
            return inspect_trace(load_trace(path, num_loras, popularity, seed), spec, parsed_ranks, block_size)

    found = inspected(file)
    as_table = output_format is OutputFormat.TABLE
    if compare is None:
        content = inspection_table(found) if as_table else inspection_json(found)
    else:
        comparison = compare_inspections(found, inspected(compare))
        content = comparison_table(comparison) if as_table else comparison_json(comparison)
    if isinstance(content, str):
        sys.stdout.write(content + "\n")
    else:
        print_safely(Console(), content)
    if plot is not None:
        for path in save_plots(found, plot):
            typer.echo(str(path), err=True)
