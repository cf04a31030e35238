"""The command `libra bench`."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.scenario import SCENARIO_HELP
from bench.settings import CPU, DEFAULT_POLICIES, SIMULATED, BenchSettings
from libra.engine.config import EngineConfig
from workloads.demand import ARRIVAL_FORMS

if TYPE_CHECKING:
    from bench.run import BenchOutcome

INTERRUPTED = 130


def _by_device(field: str) -> str:
    return f"  \\[default: {getattr(SIMULATED, field):g} simulated, {getattr(CPU, field):g} on cpu]"


def bench(
    # ScenarioCommand reads the file; its options arrive as the parameters below.
    scenario: Annotated[str | None, typer.Option(help=SCENARIO_HELP, rich_help_panel="Workload")] = None,
    workload: Annotated[
        str | None, typer.Option(help="chatbot, translation, agents, scale, ...", rich_help_panel="Workload")
    ] = BenchSettings.workload,
    trace: Annotated[
        Path | None, typer.Option(help="A libra trace or a published one, instead of --workload.")
    ] = BenchSettings.trace,
    policy: Annotated[
        str, typer.Option(help="Policies to compare, by name (see `libra policies`) or path/to/file.py:name.")
    ] = ",".join(DEFAULT_POLICIES),
    device: Annotated[str, typer.Option(help="sim:h800, sim:h200, sim:a100-80g, sim:a10 or cpu.")] = (
        BenchSettings.device
    ),
    model: Annotated[
        str | None,
        typer.Option(
            help="Simulated: a preset. On cpu: a Hugging Face directory, or `tiny` or `32m` for a random model.  "
            f"\\[default: {SIMULATED.model} simulated, {CPU.model} on cpu]"
        ),
    ] = BenchSettings.model,
    lora_dir: Annotated[
        Path | None, typer.Option(help="On cpu: the directory of PEFT directories.  \\[default: MODEL/adapters]")
    ] = BenchSettings.lora_dir,
    tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, help="Simulated GPUs.  \\[default: the model's in the paper]")
    ] = BenchSettings.tensor_parallel_size,
    profile: Annotated[
        Path | None, typer.Option(help="Step-time coefficients, instead of the device's datasheet.")
    ] = BenchSettings.profile,
    num_loras: Annotated[
        int | None, typer.Option(help="Number of adapters." + _by_device("num_loras"))
    ] = BenchSettings.num_loras,
    ranks: Annotated[
        str | None, typer.Option(help="Adapter ranks, in turn.  \\[default: 32,64 simulated, 16,32 on cpu]")
    ] = None,
    request_rate: Annotated[
        float | None,
        typer.Option(
            help="Requests per second; stretches a trace's time."
            f"  \\[default: {SIMULATED.request_rate:g} simulated, {CPU.request_rate:g} on cpu, a trace's own]"
        ),
    ] = BenchSettings.request_rate,
    duration: Annotated[
        float | None,
        typer.Option(
            help="Seconds of arrivals."
            f"  \\[default: {SIMULATED.duration_s:g} simulated, {CPU.duration_s:g} on cpu, all of a trace]"
        ),
    ] = BenchSettings.duration_s,
    popularity: Annotated[
        str | None, typer.Option(help="zipf:S, gaussian:STD, uniform, distinct or identical.  \\[default: zipf:1.0]")
    ] = BenchSettings.popularity,
    arrivals: Annotated[str, typer.Option(help=ARRIVAL_FORMS)] = (BenchSettings.arrivals),
    burstiness: Annotated[
        float, typer.Option(help="Gamma shape of the gaps: 1 is Poisson, less is burstier, inf constant.")
    ] = BenchSettings.burstiness,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="Cut longer prompts to their beginning.")
    ] = BenchSettings.max_prompt_tokens,
    max_output_tokens: Annotated[
        int | None, typer.Option(help="Cut longer answers.")
    ] = BenchSettings.max_output_tokens,
    seed: Annotated[int, typer.Option(help="First seed.")] = BenchSettings.seed,
    repeats: Annotated[int, typer.Option(help="Number of seeds: seed, seed + 1, ...")] = BenchSettings.repeats,
    hbm_cache_gib: Annotated[
        float | None,
        typer.Option(help="HBM for adapters and KV together.  \\[default: what the device has left after the weights]"),
    ] = BenchSettings.hbm_cache_gib,
    cache_fraction: Annotated[
        float | None,
        typer.Option(help=f"The same as a fraction of the working set.  \\[default on cpu: {CPU.cache_fraction:g}]"),
    ] = BenchSettings.cache_fraction,
    host_cache_gib: Annotated[
        float | None,
        typer.Option(help="Host memory for adapters and KV; inf is unbounded." + _by_device("host_cache_gib")),
    ] = BenchSettings.host_cache_gib,
    link_gbps: Annotated[
        float | None, typer.Option(help="Host link, GB/s per direction.  \\[default: the device's; on cpu unthrottled]")
    ] = BenchSettings.link_gbps,
    dtype: Annotated[str, typer.Option(help="On cpu: float32 or bfloat16.")] = BenchSettings.dtype,
    backend: Annotated[
        str, typer.Option(help="Kernels of the real engine: torch or triton (on cpu slow: needs TRITON_INTERPRET=1).")
    ] = BenchSettings.backend,
    max_num_batched_tokens: Annotated[
        int, typer.Option(help="Tokens of one step.")
    ] = EngineConfig().max_num_batched_tokens,
    max_num_seqs: Annotated[int, typer.Option(help="Requests admitted at a time.")] = EngineConfig().max_num_seqs,
    block_size: Annotated[int, typer.Option(help="Tokens per block.")] = EngineConfig().block_tokens,
    jump: Annotated[
        bool, typer.Option("--jump/--no-jump", help="Simulated: take runs of identical decode steps at once.")
    ] = EngineConfig().jump,
    warmup_duration: Annotated[
        float, typer.Option(help="Leave requests of the first seconds out of the figures.")
    ] = BenchSettings.warmup_s,
    goodput: Annotated[
        str, typer.Option(help='Objectives in ms, such as "ttft:500 tpot:50".', metavar="METRIC:MS ...")
    ] = "",
    baseline: Annotated[
        str | None, typer.Option(help="Policy that the TTFT ratios refer to.  \\[default: the best]")
    ] = BenchSettings.baseline,
    out: Annotated[
        Path | None, typer.Option(help="Directory for rows.csv, summary.csv, timeline.parquet, meta.json, ...")
    ] = BenchSettings.out,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", help="No progress bar.")] = False,
) -> None:
    """Replay one workload against several policies and say who wins."""
    from bench.output import prepare_output
    from bench.run import run_bench
    from workloads.adapters import parse_ranks

    settings = BenchSettings(
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
        warmup_s=warmup_duration,
        goodput=tuple(goodput.split()),
        baseline=baseline,
        engine=EngineConfig(
            max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs, block_tokens=block_size, jump=jump
        ),
        out=out,
    )
    if out is not None:
        prepare_output(out)
    outcome = run_bench(settings, disable_tqdm=disable_tqdm)
    _report(settings, outcome)
    if outcome.partial:
        raise typer.Exit(INTERRUPTED)


def _report(settings: BenchSettings, outcome: "BenchOutcome") -> None:
    """Writes the files, prints the table, and ends stdout on one JSON line."""
    from rich.console import Console

    from bench.adapter_table import adapter_table
    from bench.documents import RunInfo
    from bench.output import write_run
    from bench.table import order_by_ttft, print_comparison, print_safely, summary_line

    for warning in outcome.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for note in outcome.notes:
        typer.echo(f"note: {note}", err=True)
    summaries = outcome.summaries()
    info = RunInfo(
        command=shlex.join(["libra", *sys.argv[1:]]),
        conditions=outcome.conditions,
        settings=_plain(asdict(settings)) | {"policies": {p.name: p.settings() for p in outcome.policies}},
        trace_sha256=outcome.trace_sha256,
        profile=outcome.profile,
    )
    if settings.out is not None:
        write_run(settings.out, outcome.results, summaries, info, partial=outcome.partial)
    console = Console()
    print_comparison(console, summaries, outcome.conditions, baseline=settings.baseline, partial=outcome.partial)
    worst = adapter_table(order_by_ttft(summaries)[0])
    if worst is not None:
        print_safely(console, worst)
    line = summary_line(
        summaries, outcome.conditions, baseline=settings.baseline, partial=outcome.partial, out=settings.out
    )
    typer.echo(line)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
