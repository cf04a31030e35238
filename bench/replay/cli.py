"""The command `libra replay`."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.exit_codes import FAILED, INTERRUPTED
from bench.interrupts import Interrupts
from bench.replay.settings import COMPLETIONS, AnswerSource, EventLoop, PromptForm, ReplaySettings
from bench.report_options import ReportFlag, wants_report
from libra.errors import LibraError
from workloads.demand import ARRIVAL_FORMS, Demand

if TYPE_CHECKING:
    from bench.replay.outcome import ReplayOutcome

_DEFAULTS = ReplaySettings(url="", workload="any")
_SECRET_FLAGS = ("--api-key", "--header")


def replay(
    url: Annotated[str, typer.Option("--url", "--base-url", help="The server: http://host:port.")],
    workload: Annotated[str | None, typer.Option(help="chatbot, translation, agents, scale, ...")] = None,
    trace: Annotated[Path | None, typer.Option(help="A libra trace or a published one.")] = None,
    num_loras: Annotated[int | None, typer.Option(help="Number of adapters.")] = None,
    request_rate: Annotated[
        float | None,
        typer.Option(help=f"Requests per second; inf: all at once.  [default: {Demand.request_rate:g}, a trace's own]"),
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds of arrivals.  [default: 60, all of a trace]")] = None,
    popularity: Annotated[
        str | None, typer.Option(help="zipf:S, gaussian:STD, uniform, distinct or identical.  [default: zipf:1.0]")
    ] = None,
    arrivals: Annotated[str, typer.Option(help=ARRIVAL_FORMS)] = _DEFAULTS.arrivals,
    burstiness: Annotated[
        float, typer.Option(help="Gamma shape of the gaps: 1 is Poisson, less is burstier, inf constant.")
    ] = _DEFAULTS.burstiness,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Cut longer prompts to their beginning.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="Cut longer answers.")] = None,
    base_share: Annotated[
        float, typer.Option(help="Share of sessions to send to the base model, to compare adapters with.")
    ] = _DEFAULTS.base_share,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = _DEFAULTS.seed,
    endpoint: Annotated[str, typer.Option(help="/v1/completions or /v1/chat/completions.")] = COMPLETIONS,
    prompt: Annotated[
        PromptForm, typer.Option(help="Send token ids, or text of about as many tokens (chat takes text only).")
    ] = _DEFAULTS.prompt,
    model: Annotated[str | None, typer.Option(help="The base model's name.  [default: from /v1/models]")] = None,
    lora_model_map: Annotated[
        str | None,
        typer.Option(help="Model names of adapters: ADAPTER=MODEL,..., a template such as sql-{}, or a JSON file."),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Token ids are below this.  [default: what a libra server tells, else 32000]")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Sent as a bearer token.  [default: OPENAI_API_KEY]", show_default=False)
    ] = None,
    header: Annotated[list[str] | None, typer.Option(help="NAME=VALUE to send along; may be repeated.")] = None,
    ready_check_timeout_sec: Annotated[
        float, typer.Option(help="Wait so long for a server that is still starting.")
    ] = _DEFAULTS.ready_check_timeout_s,
    answers: Annotated[
        AnswerSource,
        typer.Option(help="Later turns hold the trace's answers, or the server's own."),
    ] = _DEFAULTS.answers,
    max_concurrency: Annotated[
        int | None, typer.Option(help="Requests under way at a time, shared among --workers.  [default: no limit]")
    ] = None,
    num_warmups: Annotated[
        int, typer.Option(help="Requests to the base model before the run; they count nowhere.")
    ] = _DEFAULTS.num_warmups,
    warmup_duration: Annotated[
        float, typer.Option(help="Leave requests of the first seconds out of the figures.")
    ] = _DEFAULTS.warmup_s,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Ask for answers of exactly the trace's lengths.")
    ] = _DEFAULTS.ignore_eos,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = _DEFAULTS.temperature,
    extra_body: Annotated[str | None, typer.Option(help="JSON object of further fields for every request.")] = None,
    request_timeout: Annotated[float, typer.Option(help="Seconds an attempt may take.")] = _DEFAULTS.request_timeout_s,
    retries: Annotated[
        int, typer.Option(help="Further attempts after 429, 503 and the like; counted, and inside latencies.")
    ] = _DEFAULTS.retries,
    workers: Annotated[int, typer.Option(help="Sender processes.")] = _DEFAULTS.workers,
    loop: Annotated[
        EventLoop | None, typer.Option(help="Event loop of the senders: uvloop where it is installed, else asyncio.")
    ] = _DEFAULTS.loop,
    goodput: Annotated[
        str,
        typer.Option(help='Objectives in ms, such as "ttft:500 tpot:50".', metavar="METRIC:MS ..."),
    ] = "",
    slo_target: Annotated[
        float, typer.Option(help="Share of requests that must meet --goodput.")
    ] = _DEFAULTS.slo_target,
    max_send_lag: Annotated[
        float, typer.Option(help="p99 of the generator's own delay, in ms, up to which a run is valid.")
    ] = _DEFAULTS.max_send_lag_ms,
    scrape: Annotated[
        bool, typer.Option("--scrape", help="Sample the server's /metrics into timeline.parquet.")
    ] = False,
    scrape_interval: Annotated[float, typer.Option(help="Seconds between two samples.")] = 1.0,
    label: Annotated[str | None, typer.Option(help="Name of the run in tables.  [default: the server's]")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for rows.csv, requests.csv, mix.csv, ...")] = None,
    report: ReportFlag = None,
    disable_tqdm: Annotated[bool, typer.Option("--disable-tqdm", help="No progress bar.")] = False,
) -> None:
    """Replay a workload against any OpenAI-compatible server, on schedule, and judge the run.

    Exits with 1 when the run is INVALID: failed requests, missed objectives, a late sender, wrong counts.
    """
    from bench.output import prepare_output
    from bench.replay.run import run_replay

    settings = ReplaySettings(
        url=url,
        workload=workload,
        trace=trace,
        endpoint=endpoint,
        prompt=prompt,
        model=model,
        lora_model_map=lora_model_map,
        answers=answers,
        num_loras=num_loras,
        request_rate=request_rate,
        duration_s=duration,
        popularity=popularity,
        arrivals=arrivals,
        burstiness=burstiness,
        max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens,
        base_share=base_share,
        vocab_size=vocab_size,
        seed=seed,
        num_warmups=num_warmups,
        warmup_s=warmup_duration,
        max_concurrency=max_concurrency,
        workers=workers,
        loop=loop,
        retries=retries,
        request_timeout_s=request_timeout,
        ready_check_timeout_s=ready_check_timeout_sec,
        ignore_eos=ignore_eos,
        temperature=temperature,
        extra_body=_extra_body(extra_body),
        goodput=tuple(goodput.split()),
        slo_target=slo_target,
        max_send_lag_ms=max_send_lag,
        scrape_interval_s=scrape_interval if scrape else None,
        label=label,
        out=out,
    )
    with_report = wants_report(report, out)
    if out is not None:
        prepare_output(out)
    headers = _headers(api_key, header or [])
    with Interrupts() as interrupts:
        outcome = run_replay(settings, headers, interrupts, disable_tqdm=disable_tqdm)
        _report(settings, outcome, with_report)
    if outcome.partial:
        raise typer.Exit(INTERRUPTED)
    if not outcome.verdict.valid:
        raise typer.Exit(FAILED)


def _report(settings: ReplaySettings, outcome: "ReplayOutcome", with_report: bool) -> None:
    """Writes the files and prints the figures, also where the files cannot be written."""
    from rich.console import Console

    from bench.replay.report import print_replay, replay_line, run_info, write_replay
    from bench.report.render import renew_report

    for warning in outcome.trace.header.warnings:
        typer.echo(f"warning: {warning}", err=True)
    try:
        if settings.out is not None:
            write_replay(settings.out, outcome, run_info(settings, outcome, _command(sys.argv[1:])))
            renew_report(settings.out, with_report)
    finally:
        print_replay(Console(), settings, outcome)
        typer.echo(replay_line(settings, outcome))


def _headers(api_key: str | None, pairs: list[str]) -> dict[str, str]:
    """What goes with every request. A key out of the environment gives way to a header of one's own."""
    headers = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.strip() or not (name + value).isprintable():
            raise LibraError(f"--header {name}: write NAME=VALUE on one line")
        headers[name.strip()] = value.strip()
    is_told = any(name.lower() == "authorization" for name in headers)
    if is_told and api_key:
        raise LibraError("--api-key and --header Authorization are for the same thing; leave one out")
    key = api_key or (None if is_told else os.environ.get("OPENAI_API_KEY"))
    if key:
        if not key.isprintable():
            raise LibraError("--api-key: holds a line break or another character that no header can carry")
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _extra_body(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        document = json.loads(text)
    except ValueError as error:
        raise LibraError(f"--extra-body is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise LibraError("--extra-body must be a JSON object, such as '{\"top_p\": 0.9}'")
    return document


def _command(arguments: list[str]) -> str:
    """The command line as meta.json may hold it: without the values of flags that carry secrets."""
    shown, hide_next = ["libra"], False
    for argument in arguments:
        flag, separator, _ = argument.partition("=")
        if hide_next:
            shown.append("HIDDEN")
        else:
            shown.append(f"{flag}=HIDDEN" if separator and flag in _SECRET_FLAGS else argument)
        hide_next = argument in _SECRET_FLAGS
    return shlex.join(shown)
