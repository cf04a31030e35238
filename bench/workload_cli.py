"""The commands below `libra workload`."""

import typer

from bench.help_page import LibraCommand
from bench.scenario import ScenarioCommand
from bench.workload_convert_cli import convert
from bench.workload_graph_cli import graph
from bench.workload_inspect_cli import inspect
from bench.workload_make_cli import make
from bench.workload_sources_cli import sources

workload_app = typer.Typer(help="Make, convert and inspect workload traces.", no_args_is_help=True)
workload_app.command(cls=ScenarioCommand)(make)
workload_app.command(cls=LibraCommand)(convert)
workload_app.command(cls=LibraCommand)(graph)
workload_app.command(cls=LibraCommand)(sources)
workload_app.command(cls=LibraCommand)(inspect)
