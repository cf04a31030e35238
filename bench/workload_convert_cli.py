"""The command `libra workload convert`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.workload_options import OutFile, Popularity, Seed, save_trace, status
from workloads.demand import Demand
from workloads.formats import DEFAULT_MAX_INPUT_GIB, AdapterMapping, ReadOptions, input_limit
from workloads.text import TextOptions


class AdapterSource(StrEnum):
    """Where a converted trace's adapters come from."""

    NATIVE = "native"
    MAPPED = "mapped"
    DRAWN = "drawn"


class AdapterPer(StrEnum):
    """What shares one drawn adapter."""

    SESSION = "session"
    REQUEST = "request"


class OtherKeys(StrEnum):
    """What becomes of requests whose key has no adapter of its own."""

    SHARE = "share"
    DROP = "drop"


def convert(
    files: Annotated[list[Path], typer.Argument(help="Files, folders or archives of one format.", metavar="FILE...")],
    out: OutFile,
    trace_format: Annotated[
        str | None,
        typer.Option("--format", help="See docs/workloads.md; recognised from the first row when left out."),
    ] = None,
    adapters: Annotated[
        AdapterSource | None,
        typer.Option(help="Where adapters come from; left out, the first of these that the format has."),
    ] = None,
    num_loras: Annotated[
        int | None, typer.Option(help="Number of adapters; left out, one per key, or 50 where they are drawn.")
    ] = None,
    other_keys: Annotated[
        OtherKeys,
        typer.Option(help="Requests of keys beyond the --num-loras most frequent: share their adapters, or drop."),
    ] = OtherKeys.SHARE,
    popularity: Popularity = None,
    adapter_per: Annotated[
        AdapterPer, typer.Option(help="What one draw is for. Per request destroys prefix reuse, and says by how much.")
    ] = AdapterPer.SESSION,
    seed: Seed = Demand.seed,
    source_start: Annotated[float, typer.Option(help="Begin this many seconds into the source.")] = 0.0,
    source_duration: Annotated[
        float | None, typer.Option(help="Use this many seconds of the source; left out, all of it.")
    ] = None,
    request_rate: Annotated[
        float | None,
        typer.Option(
            help="Requests per second: stretches recorded time and drops no request; sets generated arrivals."
        ),
    ] = None,
    arrivals: Annotated[
        str, typer.Option(help="Process of sources that record no times: as `libra workload make`.")
    ] = Demand.arrivals,
    burstiness: Annotated[
        float, typer.Option(help="Gamma shape of gaps that the source does not record: 1 is Poisson.")
    ] = Demand.burstiness,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json: the requests of texts then carry token ids.")
    ] = None,
    bytes_per_token: Annotated[
        float, typer.Option(help="Without --tokenizer, UTF-8 bytes of text that count as a token.")
    ] = TextOptions.bytes_per_token,
    system_tokens: Annotated[
        int, typer.Option(help="Assume a prefix of this many tokens, shared by the texts of one scene or pair.")
    ] = TextOptions.system_tokens,
    think_time: Annotated[
        float | None, typer.Option(help="Mean seconds between an answer and the next utterance of a text dialog.")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Keep this many seconds of the result.")] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Cut longer prompts to their beginning.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="Cut longer answers.")] = None,
    max_input_gib: Annotated[
        float, typer.Option(help="Refuse more input than this, after decompression.")
    ] = DEFAULT_MAX_INPUT_GIB,
) -> None:
    """Convert a published trace to libra's format, and give it the adapters it lacks."""
    from workloads.load import convert_traces
    from workloads.transform import reshape

    mapping = AdapterMapping(num_loras, popularity, adapters, other_keys, adapter_per is AdapterPer.REQUEST)
    options = ReadOptions(
        adapters=mapping,
        seed=seed,
        max_bytes=input_limit(max_input_gib),
        start_s=source_start,
        span_s=source_duration,
        request_rate=request_rate,
        arrivals=arrivals,
        burstiness=burstiness,
        text=TextOptions(tokenizer, bytes_per_token, system_tokens, think_time),
    )
    with status(f"converting {files[0].name}"):
        trace = convert_traces(files, options, trace_format)
        header = trace.header
        made_to_rate = header.provenance.arrival_source == "generated" or "request_rate" in header.parameters
        trace = reshape(trace, None if made_to_rate else request_rate, duration, max_prompt_tokens, max_output_tokens)
    save_trace(trace, out)
