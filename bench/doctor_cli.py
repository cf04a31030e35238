"""The command `libra doctor`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.exit_codes import FAILED


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON instead of a table.")] = False,
) -> None:
    """Show what this machine can run: packages, hardware, and which --device values work here."""
    from dataclasses import asdict

    from rich.console import Console

    from bench.doctor import Status, examine
    from bench.documents import to_json
    from bench.table import print_safely

    console = Console()
    with Console(stderr=True).status("looking at this machine"):
        checks = examine(Path.cwd(), console.width)
    if as_json:
        document = [{**asdict(check), "status": check.status.value} for check in checks]
        sys.stdout.write(to_json(document, indent=1) + "\n")
    else:
        from bench.doctor_table import doctor_table

        print_safely(console, doctor_table(checks))
    if any(check.status is Status.FAULT for check in checks):
        raise typer.Exit(FAILED)
