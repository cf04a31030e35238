"""The command `libra serve`."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.engine_options import (
    ENGINE,
    MEMORY,
    Backend,
    BlockSize,
    Dtype,
    EnforceEager,
    MaxNumBatchedTokens,
    MaxNumSeqs,
)
from bench.exit_codes import FAILED
from bench.help_page import LibraCommand
from bench.real_device import REAL_DEVICES
from bench.settings import CPU, CUDA
from libra.engine.config import EngineConfig
from libra.errors import LibraError, unknown
from libra.server.settings import MIB, EngineSettings, ServerSettings

NO_LIMIT = "changes nothing: the policy and the sizes of the caches decide how many adapters are held"

# vLLM takes several values after one flag; these flags may be repeated, and so may take them too.
_LISTS = ("--lora", "--lora-modules")
_KEY_VARIABLE = "LIBRA_API_KEY"


class ServeCommand(LibraCommand):
    """Understands `--lora-modules a=PATH b=PATH` beside one flag for each."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, repeat_flags(args))


def repeat_flags(args: list[str]) -> list[str]:
    """``args`` with the flag repeated before each of several values."""
    repeated: list[str] = []
    flag: str | None = None
    for position, argument in enumerate(args):
        if argument.startswith("-"):
            flag = argument if argument in _LISTS else None
        elif flag is not None and args[position - 1] != flag and "=" in argument:
            repeated.append(flag)
        else:
            flag = flag if position and args[position - 1] == flag else None
        repeated.append(argument)
    return repeated


def serve(
    model: Annotated[Path, typer.Argument(help="A Hugging Face model directory.", metavar="MODEL")],
    lora: Annotated[
        list[str] | None, typer.Option("--lora", "--lora-modules", help="An adapter, name=PATH; repeat it for more.")
    ] = None,
    lora_dir: Annotated[
        list[Path] | None,
        typer.Option(help="A directory of adapters: found at start and on demand, and open to /v1/load_lora_adapter."),
    ] = None,
    max_lora_rank: Annotated[int | None, typer.Option(min=1, help="Largest rank accepted; 128 unless given.")] = None,
    enable_lora: Annotated[bool, typer.Option("--enable-lora", help="As vLLM's; adapters are always served.")] = False,
    max_loras: Annotated[int | None, typer.Option(min=1, help=f"As vLLM's; {NO_LIMIT}.")] = None,
    max_cpu_loras: Annotated[int | None, typer.Option(min=1, help=f"As vLLM's; {NO_LIMIT}.")] = None,
    policy: Annotated[str, typer.Option(help="See `libra policies`, or path/to/file.py:name.")] = "fastlibra",
    device: Annotated[str, typer.Option(help="Where to compute: cpu or cuda.", rich_help_panel=ENGINE)] = (
        EngineSettings.device
    ),
    dtype: Dtype = None,
    backend: Backend = None,
    enforce_eager: EnforceEager = EngineSettings.enforce_eager,
    max_num_batched_tokens: MaxNumBatchedTokens = EngineConfig().max_num_batched_tokens,
    max_num_seqs: MaxNumSeqs = EngineConfig().max_num_seqs,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = ServerSettings.host,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = ServerSettings.port,
    api_key: Annotated[
        str | None, typer.Option(help="Clients must send this key.", envvar=_KEY_VARIABLE, show_envvar=True)
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="What clients call the base model.  [default: the directory's name]")
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Prompt and answer together.")] = None,
    hbm_cache_gib: Annotated[
        float | None,
        typer.Option(
            help="HBM for adapters and KV."
            f"  [default: {EngineSettings.hbm_cache_gib:g} on cpu, all that the weights leave on cuda]",
            rich_help_panel=MEMORY,
        ),
    ] = None,
    host_cache_gib: Annotated[
        float | None,
        typer.Option(
            help="Host memory for both, pinned at the start on cuda."
            f"  [default: {CPU.host_cache_gib:g} on cpu, {CUDA.host_cache_gib:g} on cuda]",
            rich_help_panel=MEMORY,
        ),
    ] = None,
    link_gbps: Annotated[
        float | None,
        typer.Option(help="Slow the host link to so many GB/s per direction.", rich_help_panel=MEMORY),
    ] = None,
    block_size: BlockSize = EngineConfig().block_tokens,
    max_queue: Annotated[
        int, typer.Option(help="Requests that may wait beyond --max-num-seqs.")
    ] = ServerSettings.max_queue,
    request_timeout: Annotated[float, typer.Option(help="Seconds for a request, arrival to last token.")] = (
        ServerSettings.request_timeout_s
    ),
    read_timeout: Annotated[
        float, typer.Option(help="Seconds for a request's head, and for its body; idle connections go after as long.")
    ] = ServerSettings.read_timeout_s,
    drain_timeout: Annotated[float, typer.Option(help="Seconds for open requests when told to stop.")] = (
        ServerSettings.drain_timeout_s
    ),
    max_body_mib: Annotated[float, typer.Option(help="Largest request body.")] = ServerSettings.max_body_bytes / MIB,
    cache_salt: Annotated[
        str, typer.Option(help="user: share KV only among requests with the same `user` field; none: share all.")
    ] = ServerSettings.cache_salt,
    request_log: Annotated[
        Path | None,
        typer.Option(help="Append what is needed to replay the traffic: lengths, arrivals, hashes; no text."),
    ] = None,
    request_log_text: Annotated[bool, typer.Option("--request-log-text", help="Also log prompts and answers.")] = False,
) -> None:
    """Serve a model and its adapters over OpenAI's API, until a signal; then finish what is open, and stop."""
    from bench.platform import limit_openmp_spinning

    limit_openmp_spinning()
    try:
        from baselines import find_policy
        from libra.server.build import build_front
        from libra.server.serve import run
    except ImportError as error:
        raise LibraError(f"{error.name} is missing; pip install 'libra-lora[engine,server]'") from error

    for flag, limit in (("--max-loras", max_loras), ("--max-cpu-loras", max_cpu_loras)):
        if limit is not None:
            typer.echo(f"note: {flag} {limit} {NO_LIMIT}", err=True)
    if device not in REAL_DEVICES:
        raise unknown("device", device, REAL_DEVICES)
    defaults = REAL_DEVICES[device]
    if hbm_cache_gib is None:
        hbm_cache_gib = EngineSettings.hbm_cache_gib if device == "cpu" else math.inf
    if cache_salt not in ("none", "user"):
        raise unknown("cache salt", cache_salt, ["none", "user"])
    settings = ServerSettings(
        model_name=served_model_name or model.resolve().name,
        host=host,
        port=port,
        api_key=api_key if api_key is not None else os.environ.get(_KEY_VARIABLE),  # set but empty is no key's absence
        lora_dirs=tuple(lora_dir or ()),
        max_queue=max_queue,
        request_timeout_s=request_timeout,
        read_timeout_s=read_timeout,
        drain_timeout_s=drain_timeout,
        max_body_bytes=int(max_body_mib * MIB),
        cache_salt="user" if cache_salt == "user" else "none",
        request_log=request_log,
        request_log_text=request_log_text,
    )
    wanted = EngineSettings(
        policy=partial(find_policy, policy),
        model=model,
        adapters=parse_adapters(lora or []),
        max_lora_rank=max_lora_rank,
        max_model_len=max_model_len,
        device=device,
        dtype=dtype or defaults.dtype,
        backend=backend or defaults.backend,
        enforce_eager=enforce_eager,
        hbm_cache_gib=hbm_cache_gib,
        host_cache_gib=defaults.host_cache_gib if host_cache_gib is None else host_cache_gib,
        link_gbps=link_gbps,
        config=EngineConfig(
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            block_tokens=block_size,
            timeline_s=None,
        ),
    )
    front = build_front(settings, wanted)
    if not run(front, lambda line: typer.echo(line, err=True)):
        raise typer.Exit(FAILED)


def parse_adapters(values: list[str]) -> dict[str, Path]:
    """``name=PATH`` by name. Raises LibraError for another form and for a name that comes twice."""
    adapters: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise LibraError(f"--lora {value}: write name=PATH")
        if name in adapters:
            raise LibraError(f"--lora {name}: given twice; rename one")
        adapters[name] = Path(path)
    return adapters
