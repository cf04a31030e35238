"""The command `libra profile`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.engine_options import ENGINE, Backend, BlockSize, Dtype
from bench.settings import CPU, CUDA
from libra.engine.config import EngineConfig

if TYPE_CHECKING:
    from libra.engine.profile import Profile

ROUNDS = 5
BUDGET_S = 60.0


def profile(
    out: Annotated[Path, typer.Option(help="The profile to write, for --profile.", metavar="FILE")],
    device: Annotated[str, typer.Option(help="What to measure: cpu or cuda.", rich_help_panel=ENGINE)] = "cpu",
    model: Annotated[
        str | None,
        typer.Option(
            help="A Hugging Face directory, `tiny` or `32m` for a random model, on cuda also a preset.  "
            f"[default: {CPU.model} on cpu, {CUDA.model} on cuda]",
            rich_help_panel=ENGINE,
        ),
    ] = None,
    dtype: Dtype = None,
    backend: Backend = None,
    block_size: BlockSize = EngineConfig().block_tokens,
    rounds: Annotated[int, typer.Option(min=1, help="Least samples of every point.")] = ROUNDS,
    budget: Annotated[float, typer.Option(min=0.0, help="Seconds to go on for after that.")] = BUDGET_S,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", help="No progress bar.")] = False,
) -> None:
    """Measure what steps and copies take on this machine, and fit the simulator's coefficients to it."""
    from rich.console import Console

    from bench.documents import to_json
    from bench.platform import limit_openmp_spinning
    from bench.profiling.report import profile_table
    from bench.profiling.run import ProfileSettings, check_target, run_profile
    from bench.real_device import REAL_DEVICES, check_measurable, open_network
    from bench.study_output import replace_text
    from bench.table import print_safely

    check_measurable(device)
    check_target(out)
    limit_openmp_spinning()
    from libra.engine.build_real import open_device

    defaults, place = REAL_DEVICES[device], open_device(device)
    name, kind = model or defaults.model, dtype or defaults.dtype
    network = open_network(name, place, kind, backend or defaults.backend, defaults)
    settings = ProfileSettings(name, kind, block_size, rounds, budget)
    measured = run_profile(network, settings, place, disable_tqdm=disable_tqdm)
    replace_text(out, to_json(measured.as_dict(), indent=2) + "\n")
    print_safely(Console(), profile_table(measured))
    typer.echo(to_json(_line(measured, out)))


def _line(profile: "Profile", out: Path) -> dict[str, object]:
    """What scripts want to know of it."""
    kinds = (profile.fit or {})["kinds"]
    return {
        "schema_version": 1,
        "profile": str(out),
        "name": profile.name,
        "r_squared": profile.r_squared,
        "kinds": {name: quality["r_squared"] for name, quality in kinds.items()},
    }
