"""The options of `libra bench`, for every command that runs what it runs."""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.engine_options import (
    ENGINE,
    MEMORY,
    WORKLOAD,
    Backend,
    BlockSize,
    Dtype,
    EnforceEager,
    MaxNumBatchedTokens,
    MaxNumSeqs,
)
from bench.settings import CPU, CUDA, DEFAULT_POLICIES, SIMULATED, BenchSettings
from libra.engine.config import EngineConfig
from libra.errors import LibraError
from workloads.demand import ARRIVAL_FORMS


def _by_device(field: str, *others: str) -> str:
    simulated, cpu, cuda = (getattr(defaults, field) for defaults in (SIMULATED, CPU, CUDA))
    defaults = (f"{simulated:g} simulated", f"{cpu:g} on cpu", f"{cuda:g} on cuda", *others)
    return f"  [default: {', '.join(defaults)}]"


def settings_of(
    workload: Annotated[
        str | None, typer.Option(help="chatbot, translation, agents, scale, ...", rich_help_panel=WORKLOAD)
    ] = BenchSettings.workload,
    trace: Annotated[
        Path | None,
        typer.Option(help="A libra trace or a published one, instead of --workload.", rich_help_panel=WORKLOAD),
    ] = BenchSettings.trace,
    num_loras: Annotated[
        int | None, typer.Option(help="Number of adapters." + _by_device("num_loras"), rich_help_panel=WORKLOAD)
    ] = BenchSettings.num_loras,
    ranks: Annotated[
        str | None,
        typer.Option(
            help="Adapter ranks, in turn.  [default: 32,64 simulated and on cuda, 16,32 on cpu]",
            rich_help_panel=WORKLOAD,
        ),
    ] = None,
    request_rate: Annotated[
        float | None,
        typer.Option(
            help="Requests per second; stretches a trace's time." + _by_device("request_rate", "a trace's own"),
            rich_help_panel=WORKLOAD,
        ),
    ] = BenchSettings.request_rate,
    duration: Annotated[
        float | None,
        typer.Option(
            help="Seconds of arrivals." + _by_device("duration_s", "all of a trace"),
            rich_help_panel=WORKLOAD,
        ),
    ] = BenchSettings.duration_s,
    popularity: Annotated[
        str | None,
        typer.Option(
            help="zipf:S, gaussian:STD, uniform, distinct or identical.  [default: zipf:1.0]", rich_help_panel=WORKLOAD
        ),
    ] = BenchSettings.popularity,
    arrivals: Annotated[str, typer.Option(help=ARRIVAL_FORMS, rich_help_panel=WORKLOAD)] = BenchSettings.arrivals,
    burstiness: Annotated[
        float,
        typer.Option(
            help="Gamma shape of the gaps: 1 is Poisson, less is burstier, inf constant.", rich_help_panel=WORKLOAD
        ),
    ] = BenchSettings.burstiness,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="Cut longer prompts to their beginning.", rich_help_panel=WORKLOAD)
    ] = BenchSettings.max_prompt_tokens,
    max_output_tokens: Annotated[
        int | None, typer.Option(help="Cut longer answers.", rich_help_panel=WORKLOAD)
    ] = BenchSettings.max_output_tokens,
    device: Annotated[
        str, typer.Option(help="sim:h800, sim:h200, sim:a100-80g, sim:a10, cpu or cuda.", rich_help_panel=ENGINE)
    ] = BenchSettings.device,
    model: Annotated[
        str | None,
        typer.Option(
            help="Simulated: a preset. Else: a Hugging Face directory, `tiny` or `32m` for a small random model, on "
            "cuda also a preset, with random weights.  "
            f"[default: {SIMULATED.model}, {CPU.model} on cpu]",
            rich_help_panel=ENGINE,
        ),
    ] = BenchSettings.model,
    lora_dir: Annotated[
        Path | None,
        typer.Option(
            help="On cpu and cuda: the directory of PEFT directories.  [default: MODEL/adapters]",
            rich_help_panel=ENGINE,
        ),
    ] = BenchSettings.lora_dir,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(min=1, help="Simulated GPUs.  [default: the model's in the paper]", rich_help_panel=ENGINE),
    ] = BenchSettings.tensor_parallel_size,
    profile: Annotated[
        Path | None,
        typer.Option(help="Step-time coefficients, instead of the device's datasheet.", rich_help_panel=ENGINE),
    ] = BenchSettings.profile,
    dtype: Dtype = BenchSettings.dtype,
    backend: Backend = BenchSettings.backend,
    enforce_eager: EnforceEager = BenchSettings.enforce_eager,
    max_num_batched_tokens: MaxNumBatchedTokens = EngineConfig().max_num_batched_tokens,
    max_num_seqs: MaxNumSeqs = EngineConfig().max_num_seqs,
    jump: Annotated[
        bool,
        typer.Option(
            "--jump/--no-jump",
            help="Simulated: take runs of identical decode steps at once.",
            rich_help_panel=ENGINE,
        ),
    ] = EngineConfig().jump,
    hbm_cache_gib: Annotated[
        float | None,
        typer.Option(
            help="HBM for adapters and KV together.  [default: what the device has left after the weights]",
            rich_help_panel=MEMORY,
        ),
    ] = BenchSettings.hbm_cache_gib,
    cache_fraction: Annotated[
        float | None,
        typer.Option(
            help=f"The same as a fraction of the working set.  [default on cpu: {CPU.cache_fraction:g}]",
            rich_help_panel=MEMORY,
        ),
    ] = BenchSettings.cache_fraction,
    host_cache_gib: Annotated[
        float | None,
        typer.Option(
            help="Host memory for adapters and KV; inf is unbounded." + _by_device("host_cache_gib"),
            rich_help_panel=MEMORY,
        ),
    ] = BenchSettings.host_cache_gib,
    link_gbps: Annotated[
        float | None,
        typer.Option(
            help="Host link, GB/s per direction.  [default: the device's; on cpu unthrottled]", rich_help_panel=MEMORY
        ),
    ] = BenchSettings.link_gbps,
    block_size: BlockSize = EngineConfig().block_tokens,
    policy: Annotated[
        str, typer.Option(help="Policies to compare, by name (see `libra policies`) or path/to/file.py:name.")
    ] = ",".join(DEFAULT_POLICIES),
    baseline: Annotated[
        str | None, typer.Option(help="Policy that the TTFT ratios refer to.  [default: the best]")
    ] = BenchSettings.baseline,
    goodput: Annotated[
        str,
        typer.Option(
            help='Objectives in ms, such as "ttft:500 tpot:50", or relative, such as "ttft:5x tpt:1.5x".',
            metavar="METRIC:LIMIT ...",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="First seed.")] = BenchSettings.seed,
    repeats: Annotated[int, typer.Option(help="Number of seeds: seed, seed + 1, ...")] = BenchSettings.repeats,
    warmup_duration: Annotated[
        float, typer.Option(help="Leave requests of the first seconds out of the figures.")
    ] = BenchSettings.warmup_s,
) -> BenchSettings:
    """The settings that these options give. Raises LibraError."""
    from workloads.adapters import parse_ranks

    return BenchSettings(
        workload=workload,
        trace=trace,
        policies=tuple(name.strip() for name in policy.split(",") if name.strip()),
        device=device,
        model=model,
        lora_dir=lora_dir,
        tensor_parallel_size=tensor_parallel_size,
        profile=profile,
        num_loras=num_loras,
        ranks=None if ranks is None else parse_ranks(ranks),
        request_rate=request_rate,
        duration_s=duration,
        popularity=popularity,
        arrivals=arrivals,
        burstiness=burstiness,
        max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens,
        seed=seed,
        repeats=repeats,
        hbm_cache_gib=hbm_cache_gib,
        cache_fraction=cache_fraction,
        host_cache_gib=host_cache_gib,
        link_gbps=link_gbps,
        dtype=dtype,
        backend=backend,
        enforce_eager=enforce_eager,
        warmup_s=warmup_duration,
        goodput=tuple(goodput.split()),
        baseline=baseline,
        engine=EngineConfig(
            max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs, block_tokens=block_size, jump=jump
        ),
    )


def takes_settings(without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of ``settings_of``, all but those named ``without``, before its own. It receives them
    as its first argument, a BenchSettings."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[1:]
        shared = [p for p in inspect.signature(settings_of).parameters.values() if p.name not in without]

        @wraps(command)
        def run(**options: Any) -> None:
            settings = settings_of(**{parameter.name: options.pop(parameter.name) for parameter in shared})
            command(settings, **options)

        # What typer reads to make the options.
        signature = inspect.Signature([*shared, *own])
        setattr(run, "__signature__", signature)  # noqa: B010 - mypy knows no such attribute
        run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        return run

    return decorate


def parse_settings(options: Mapping[str, str], where: str) -> BenchSettings:
    """The settings that texts give, by the names of the options with underscores, as a user would type them.

    Raises LibraError, which says ``where`` the texts stand, for a text that its option does not take.
    """
    app = typer.Typer()
    app.command()(takes_settings()(_nothing))
    command = typer.main.get_command(app)
    context = command.make_context("libra", [], resilient_parsing=True)
    values: dict[str, Any] = {}
    for parameter in command.params:
        if parameter.name in options:
            try:
                values[parameter.name] = parameter.process_value(context, options[parameter.name])
            except typer.BadParameter as error:
                raise LibraError(f"{where}: {parameter.name}: {error.message}") from None
    try:
        return settings_of(**values)
    except LibraError as error:
        raise LibraError(f"{where}: {error}") from None


def _nothing(settings: BenchSettings) -> None:
    """A command that only has options."""
