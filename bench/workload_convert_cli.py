"""The command `libra workload convert`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.workload_options import POPULARITY_HELP, OutFile, Seed, save_trace, status
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


ADAPTERS, PART, TIME, TEXTS = "Adapters", "Part of the source", "Time", "Texts"


def convert(
    files: Annotated[list[Path], typer.Argument(help="Files, folders or archives of one format.", metavar="FILE")],
    out: OutFile,
    trace_format: Annotated[
        str | None,
        typer.Option("--format", help="See docs/workloads.md; left out, recognised from the first row."),
    ] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Cut longer prompts to their beginning.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="Cut longer answers.")] = None,
    seed: Seed = Demand.seed,
    adapters: Annotated[
        AdapterSource | None,
        typer.Option(
            help="Recorded, one per value of a recorded field, or drawn; left out, the first that the format has.",
            rich_help_panel=ADAPTERS,
        ),
    ] = None,
    num_loras: Annotated[
        int | None, typer.Option(help="Left out, one per key, or 50 where they are drawn.", rich_help_panel=ADAPTERS)
    ] = None,
    other_keys: Annotated[
        OtherKeys,
        typer.Option(
            help="Requests of keys beyond the --num-loras most frequent: share their adapters, or drop.",
            rich_help_panel=ADAPTERS,
        ),
    ] = OtherKeys.SHARE,
    popularity: Annotated[str | None, typer.Option(help=POPULARITY_HELP, rich_help_panel=ADAPTERS)] = None,
    adapter_per: Annotated[
        AdapterPer,
        typer.Option(
            help="What one draw is for. Per request destroys prefix reuse, and says by how much.",
            rich_help_panel=ADAPTERS,
        ),
    ] = AdapterPer.SESSION,
    source_start: Annotated[
        float, typer.Option(help="Begin this many seconds into the source.", rich_help_panel=PART)
    ] = 0.0,
    source_duration: Annotated[
        float | None,
        typer.Option(help="Use this many seconds of the source; left out, all of it.", rich_help_panel=PART),
    ] = None,
    max_input_gib: Annotated[
        float, typer.Option(help="Refuse more input than this, after decompression.", rich_help_panel=PART)
    ] = DEFAULT_MAX_INPUT_GIB,
    request_rate: Annotated[
        float | None,
        typer.Option(
            help="Requests per second: stretches recorded time and drops no request; sets the rate of drawn arrivals.",
            rich_help_panel=TIME,
        ),
    ] = None,
    arrivals: Annotated[
        str | None,
        typer.Option(
            help="When sessions start whose source records no times, as in `libra workload make`; also in place of the "
            "times that text dialogs record.  [default: poisson without times]",
            rich_help_panel=TIME,
        ),
    ] = None,
    burstiness: Annotated[
        float,
        typer.Option(help="Gamma shape of gaps that the source does not record: 1 is Poisson.", rich_help_panel=TIME),
    ] = Demand.burstiness,
    duration: Annotated[
        float | None, typer.Option(help="Keep this many seconds of the result.", rich_help_panel=TIME)
    ] = None,
    think_time: Annotated[
        float | None,
        typer.Option(help="Mean seconds between an answer and the next utterance of a dialog.", rich_help_panel=TEXTS),
    ] = None,
    system_tokens: Annotated[
        int,
        typer.Option(help="Assume a prefix of so many tokens, shared by the texts of one key.", rich_help_panel=TEXTS),
    ] = TextOptions.system_tokens,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="A tokenizer.json: requests then carry token ids.", rich_help_panel=TEXTS),
    ] = None,
    bytes_per_token: Annotated[
        float,
        typer.Option(help="Without --tokenizer, UTF-8 bytes that count as a token.", rich_help_panel=TEXTS),
    ] = TextOptions.bytes_per_token,
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
