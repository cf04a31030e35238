"""The command `libra workload sources`."""

from typing import TYPE_CHECKING, Annotated

import typer

from bench.workload_options import OutputFormat

if TYPE_CHECKING:
    from rich.console import RenderableType


def sources(
    output_format: Annotated[OutputFormat, typer.Option("--format", help="What to print.")] = OutputFormat.TABLE,
) -> None:
    """List where public traces are published, under which licence, and what each is good for."""
    import json
    import sys
    from dataclasses import asdict

    from rich.console import Console

    from bench.table import print_safely
    from workloads.data_sources import DATA_SOURCES

    if output_format is OutputFormat.TABLE:
        print_safely(Console(soft_wrap=True), _listing())
    else:
        rows = [{**asdict(source), "num_bytes": source.num_bytes} for source in DATA_SOURCES]
        sys.stdout.write(json.dumps(rows, allow_nan=False) + "\n")


def _listing() -> "RenderableType":
    """Three lines a data set, so that addresses stay whole: what it is, what for, where."""
    from rich.console import Group
    from rich.text import Text

    from workloads.data_sources import DATA_SOURCES

    lines: list[Text] = []
    for source in DATA_SOURCES:
        size = "size unknown" if source.num_bytes is None else f"{source.num_bytes / 2**20:.0f} MiB"
        facts = f"  --format {source.trace_format} · {source.licence or 'no licence found'} · {size}"
        lines.append(Text(source.name, style="bold").append(facts, style="not bold cyan"))
        lines.append(Text(f"  {source.good_for}"))
        lines.append(Text(f"  {source.url}\n", style="dim"))
    return Group(*lines)
