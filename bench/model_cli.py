"""The command `libra model make-tiny`."""

from pathlib import Path
from typing import Annotated

import typer

from bench.help_page import LibraCommand
from workloads.adapters import DEFAULT_RANKS

model_app = typer.Typer(help="Make models to try things on.", no_args_is_help=True)


@model_app.callback()
def model_commands() -> None:
    """Make models to try things on."""


@model_app.command("make-tiny", cls=LibraCommand)
def make_tiny(
    directory: Annotated[Path, typer.Argument(help="Where to write it.", metavar="DIR")],
    size: Annotated[str, typer.Option(help="tiny (tests) or 32m (32 million parameters).")] = "32m",
    architecture: Annotated[
        str, typer.Option(help="LlamaForCausalLM, MistralForCausalLM or Qwen2ForCausalLM.")
    ] = "LlamaForCausalLM",
    num_loras: Annotated[int, typer.Option(min=0, help="Number of adapters.")] = 8,
    ranks: Annotated[str, typer.Option(help="Adapter ranks, in turn.")] = DEFAULT_RANKS,
    seed: Annotated[int, typer.Option(help="Seed of all weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the directory.")] = False,
) -> None:
    """Write a random model with a tokenizer and adapters in DIR/adapters: nothing is downloaded."""
    from rich.console import Console

    from libra.model.tiny import TINY_SIZES, TinyAdapters
    from libra.model.tiny import make_tiny as write
    from workloads.adapters import parse_ranks

    adapters = TinyAdapters(count=num_loras, ranks=parse_ranks(ranks), prefix="lora")
    with Console(stderr=True).status(f"writing {directory}"):
        paths = write(directory, TINY_SIZES[size], adapters, seed, architecture, force=force)
    typer.echo(f"{directory}: a random {size} {architecture} with {len(paths)} adapters")
