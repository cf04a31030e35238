"""The command `libra policies`."""

from typing import Annotated

import typer


def policies(
    name: Annotated[str | None, typer.Argument(help="Show all fields of this policy.", metavar="[NAME]")] = None,
) -> None:
    """List the policies, or show what one is made of."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from baselines import POLICIES, find_policy
    from bench.table import print_safely

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    if name is None:
        table.add_column("policy", style="bold", no_wrap=True)
        table.add_column("composition")
        for known, policy in POLICIES.items():
            table.add_row(known, policy.summary)
    else:
        table.add_column("field", style="bold", no_wrap=True)
        table.add_column("value")
        for field, value in find_policy(name).settings().items():
            table.add_row(field, str(value))
    print_safely(Console(), table)
