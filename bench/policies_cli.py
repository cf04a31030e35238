"""The command `libra policies`."""

from typing import Annotated

import typer


def policies(
    name: Annotated[str | None, typer.Argument(help="Show all fields of this policy.", metavar="NAME")] = None,
) -> None:
    """List the policies, or show what one is made of."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from baselines import POLICIES
    from baselines.oracle import ORACLES
    from bench.oracle import find_choice
    from bench.table import print_safely

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    if name is None:
        table.add_column("policy", style="bold", no_wrap=True)
        table.add_column("composition")
        for known, policy in POLICIES.items():
            table.add_row(known, policy.summary)
        for known, oracle in ORACLES.items():
            table.add_row(known, oracle.summary)
    else:
        table.add_column("field", style="bold", no_wrap=True)
        table.add_column("value")
        every = [policy.settings() for policy in find_choice(name).candidates]
        for field, value in every[0].items():
            values = dict.fromkeys(str(settings[field]) for settings in every)
            table.add_row(field, str(value) if len(values) == 1 else f"the best of: {', '.join(values)}")
    print_safely(Console(), table)
