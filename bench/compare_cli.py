"""The command `libra compare`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.compare_options import CompareOptions

_DEFAULTS = CompareOptions()


class OutputFormat(StrEnum):
    """How a comparison is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def compare(
    run_a: Annotated[Path, typer.Argument(help="Directory of the first run (the baseline).", metavar="RUN_A")],
    run_b: Annotated[Path, typer.Argument(help="Directory of the second run.", metavar="RUN_B")],
    policy: Annotated[
        str | None, typer.Option(help="Compare this policy only, in both runs unless --policy-b names another for B.")
    ] = None,
    policy_b: Annotated[str | None, typer.Option(help="The policy of RUN_B to hold against --policy.")] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Pair requests by seed and id even if the traces differ.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = _DEFAULTS.resamples,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = _DEFAULTS.seed,
    output_format: Annotated[OutputFormat, typer.Option("--format", help="What to print.")] = OutputFormat.TABLE,
) -> None:
    """Compare two runs over the same requests, with 95 % bootstrap intervals on the differences."""
    from rich.console import Console

    from bench.compare import compare_policies
    from bench.compare_table import compare_csv, compare_json, compare_table
    from bench.pairing import choose_policies
    from bench.saved_run import load_run
    from bench.table import print_safely

    options = CompareOptions(resamples=resamples, seed=seed, allow_different=allow_different)
    first, second = load_run(run_a), load_run(run_b)
    pairs = choose_policies(first, second, policy, policy_b)
    with Console(stderr=True).status("") as status:
        comparisons = []
        for done, (name_a, name_b) in enumerate(pairs):
            status.update(f"resampling {name_a} against {name_b} ({done + 1} of {len(pairs)})")
            comparisons.append(compare_policies(first, name_a, second, name_b, options))
    if output_format is OutputFormat.TABLE:
        print_safely(Console(), compare_table(run_a, run_b, comparisons, options))
    elif output_format is OutputFormat.CSV:
        sys.stdout.write(compare_csv(comparisons))
    else:
        sys.stdout.write(compare_json(run_a, run_b, comparisons, options) + "\n")
