"""The command `libra workload graph`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.workload_options import OutputFormat, Seed, status
from libra.spec import GIB
from workloads.demand import Demand
from workloads.formats import DEFAULT_MAX_INPUT_GIB

if TYPE_CHECKING:
    from workloads.graphs.model import GraphModel


def graph(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Call records in the columns of Alibaba's microservice traces (CSV, compressed or not), or one model.",
            metavar="FILE",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="The model file to write, for `agent-graph:FILE`.")] = None,
    graphs: Annotated[Path | None, typer.Option(help="The file for the generated graphs, one a line.")] = None,
    num_graphs: Annotated[int, typer.Option(min=1, help="Graphs to generate.")] = 1000,
    cluster: Annotated[int | None, typer.Option(min=0, help="Generate graphs of this cluster only.")] = None,
    seed: Seed = Demand.seed,
    max_input_gib: Annotated[
        float, typer.Option(min=0, help="Refuse more input than this after decompression.")
    ] = DEFAULT_MAX_INPUT_GIB,
    output_format: Annotated[OutputFormat, typer.Option("--format", help="What to print.")] = OutputFormat.TABLE,
) -> None:
    """Learn a model of call graphs, generate new graphs of the same kind, and say how close they are."""
    import sys

    from rich.console import Console

    from bench.graph_table import graph_json, graph_table
    from bench.table import print_safely
    from libra.errors import unknown
    from workloads.files import replace_file
    from workloads.graphs.model_file import graph_lines, write_model
    from workloads.graphs.shapes import closeness, graph_shapes
    from workloads.seeds import generator

    with status("reading call records"):
        model = _model(files, seed, int(max_input_gib * GIB))
    if out is not None:
        write_model(out, model)
    if cluster is not None:
        if cluster not in model.clusters:
            raise unknown("cluster", str(cluster), map(str, model.clusters))
        model = model.clusters[cluster]
    with status("generating graphs"):
        made = list(model.draw(generator(seed, "call graphs"), num_graphs))
    if graphs is not None:
        replace_file(graphs, graph_lines(made))
    rows = closeness(model.source_shapes, graph_shapes(made))
    if output_format is OutputFormat.TABLE:
        print_safely(Console(), graph_table(model, rows, num_graphs))
    else:
        sys.stdout.write(graph_json(model, rows, num_graphs, seed) + "\n")


def _model(files: list[Path], seed: int, max_bytes: int) -> "GraphModel":
    """A model as it is, or one learnt from call records."""
    from workloads.graphs.clusters import cluster_entries
    from workloads.graphs.model import learn_model
    from workloads.graphs.model_file import read_model
    from workloads.graphs.rebuild import read_call_graphs

    if len(files) == 1 and files[0].suffix == ".json":
        return read_model(files[0])
    source, counts = read_call_graphs(files, max_bytes)
    return cluster_entries(learn_model(files[0].name, source, counts), seed)
