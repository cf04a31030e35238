"""The command `libra validate`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.bench_options import takes_settings
from bench.exit_codes import INTERRUPTED
from bench.profile_cli import BUDGET_S, ROUNDS
from bench.settings import BenchSettings

if TYPE_CHECKING:
    from bench.platform_real import RealPlatform
    from bench.validate import Validation
    from libra.engine.profile import Profile

POLICIES = "fastlibra,vllm,slora"
# What a validation has no use for, or says in its own way.
NOT_SHARED = ("device", "policy", "profile", "tensor_parallel_size", "goodput", "baseline", "jump")


@takes_settings(without=NOT_SHARED)
def validate(
    settings: BenchSettings,
    device: Annotated[str, typer.Option(help="Where the real engine runs: cpu or cuda.")] = "cpu",
    policy: Annotated[str, typer.Option(help="Policies to run, by name or path/to/file.py:name.")] = POLICIES,
    profile: Annotated[
        Path | None, typer.Option(help="A profile of `libra profile`.  [default: measured first]", metavar="FILE")
    ] = None,
    budget: Annotated[float, typer.Option(min=0.0, help="Seconds to measure a profile for, if none is given.")] = (
        BUDGET_S
    ),
    paced: Annotated[
        bool, typer.Option("--paced", help="Run the real engine on the simulation's clock: hit counts must be equal.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory for validation.csv, requests.csv, profile.json and meta.json.")
    ] = None,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", help="No progress bar.")] = False,
) -> None:
    """Run one workload on the real engine and in simulation, and say how far apart they are."""
    from baselines import find_policy
    from bench.output import prepare_output
    from bench.platform import limit_openmp_spinning
    from bench.real_device import check_measurable
    from bench.study_output import STUDY_SCHEMA
    from bench.validate import plan_validation, run_validation
    from libra.engine.profile import load_profile

    check_measurable(device)
    names = tuple(name.strip() for name in policy.split(",") if name.strip())
    settings = replace(settings, device=device, policies=names)
    policies = [find_policy(name) for name in names]
    given = None if profile is None else load_profile(profile)
    if out is not None:
        prepare_output(out, STUDY_SCHEMA)
    limit_openmp_spinning()
    from bench.platform_real import RealPlatform

    platform = RealPlatform(settings)
    if given is not None:
        given.check_use(platform.model, device, 1)
    setups = plan_validation(settings, platform, policies)
    used = given or _measure(platform, settings, budget, disable_tqdm)
    if settings.link_gbps is not None:
        used = used.with_link(min(settings.link_gbps * 1e9, used.link_bytes_per_s))
    platform.pace = used if paced else None
    found = run_validation(settings, platform, setups, used, policies, paced=paced, disable_tqdm=disable_tqdm)
    if found.real:
        _report(found, settings, out)
    if found.partial:
        raise typer.Exit(INTERRUPTED)


def _measure(platform: "RealPlatform", settings: BenchSettings, budget_s: float, disable_tqdm: bool) -> "Profile":
    """A profile of the platform's model, and its table."""
    from rich.console import Console

    from bench.profiling.report import profile_table
    from bench.profiling.run import ProfileSettings, run_profile
    from bench.table import print_safely

    name, dtype = settings.model or platform.defaults.model, settings.dtype or platform.defaults.dtype
    measure = ProfileSettings(name, dtype, settings.engine.block_tokens, ROUNDS, budget_s)
    profile = run_profile(platform.network, measure, platform.device, disable_tqdm=disable_tqdm)
    print_safely(Console(), profile_table(profile))
    return profile


def _report(found: "Validation", settings: BenchSettings, out: Path | None) -> None:
    """Writes the files, prints the table, and ends stdout on one JSON line."""
    from rich.console import Console

    from bench.documents import to_json
    from bench.study_output import replace_text, study_meta, write_study
    from bench.table import print_safely
    from bench.validate_table import deviation_rows, paired_rows, validation_line, validation_table

    if out is not None:
        details: dict[str, Any] = {
            "settings": asdict(settings),
            "conditions": asdict(found.conditions),
            "trace_sha256": found.trace_sha256,
            "paced": found.paced,
            "saturated": found.saturated,
            "backend_fallback": next(
                (r.extra["backend_fallback"] for r in found.real if "backend_fallback" in r.extra), None
            ),
            "captions": list(dict.fromkeys(result.caption for result in found.real)),
        }
        # Before meta.json, without which the directory is no study.
        replace_text(out / "profile.json", to_json(found.profile.as_dict(), indent=2) + "\n")
        tables = {"validation.csv": deviation_rows(found), "requests.csv": paired_rows(found)}
        write_study(out, tables, study_meta("validate", found.partial, details))
    console = Console()
    print_safely(console, validation_table(found, console.width))
    typer.echo(validation_line(found))
