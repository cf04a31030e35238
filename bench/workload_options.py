"""Options and endings that the commands below `libra workload` share."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.status import Status

    from workloads.trace import Trace


class OutputFormat(StrEnum):
    """How something is printed."""

    TABLE = "table"
    JSON = "json"


OutFile = Annotated[Path, typer.Option("--out", help="The trace file to write.")]
POPULARITY_HELP = "zipf:S, gaussian:STD, uniform, distinct or identical; drawn per session. zipf:1.0 when left out."
Popularity = Annotated[str | None, typer.Option(help=POPULARITY_HELP)]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]


def status(message: str) -> "Status":
    """A spinner on stderr for as long as the returned context lasts."""
    from rich.console import Console

    return Console(stderr=True).status(message)


def save_trace(trace: "Trace", out: Path) -> None:
    """Writes the trace and says so in one line; warnings and counts go to stderr."""
    from bench.format import compact
    from workloads.trace import write_trace

    with status(f"writing {out.name}"):
        write_trace(out, trace)
    header = trace.header
    for warning in header.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for reason, count in header.counts.items():
        if count:
            typer.echo(f"{reason.replace('_', ' ')}: {count:,}", err=True)
    typer.echo(
        f"{out}: {len(trace.requests):,} requests, {len(header.adapters)} adapters, "
        f"{header.duration_s:g} s at {compact(trace.request_rate)} req/s"
    )
