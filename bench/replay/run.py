"""`libra replay`: ask the server, send the traffic, measure and judge."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from bench.interrupts import Interrupts
from bench.progress import run_progress
from bench.replay.controller import send_traffic, warm_up
from bench.replay.http import parse_url
from bench.replay.job import Job, fastest_loop
from bench.replay.outcome import ReplayOutcome, conclude
from bench.replay.prompts import BodyOptions
from bench.replay.scrape import Scraper, check_scraping, scraping
from bench.replay.sender import SendOptions
from bench.replay.server import Server, ask_server, model_names, serves
from bench.replay.server_info import VLLM
from bench.replay.settings import AnswerSource, PromptForm, ReplaySettings
from bench.replay.traffic import build_trace
from bench.slo import parse_objectives
from libra.errors import LibraError
from workloads.trace import Trace


def run_replay(
    settings: ReplaySettings, headers: Mapping[str, str], interrupts: Interrupts, *, disable_tqdm: bool = False
) -> ReplayOutcome:
    """Replays the trace or workload against the server; ``headers`` go with every request.

    From the first request on ``interrupts`` are held; one ends the run and keeps what there is. Raises LibraError
    before the first request where something is wrong with the settings, the trace, the models or the server.
    """
    headers = dict(headers)
    parse_objectives(settings.goodput)
    trace = build_trace(settings)
    address = parse_url(settings.url)
    server = ask_server(address, headers, settings.model, settings.ready_check_timeout_s)
    job = Job(
        address=address,
        endpoint=settings.endpoint,
        headers=headers,
        timeout_s=settings.request_timeout_s,
        prompt=settings.prompt,
        body=_body_options(settings, server),
        models=model_names(
            server,
            [request.adapter for request in trace.requests],
            settings.lora_model_map,
            partial(serves, address, headers),
        ),
        outputs=frozenset(request.output for request in trace.requests if request.output is not None),
        send=_send_options(settings, trace),
        requests=trace.requests,
        loop=settings.loop or fastest_loop(),
    )
    _check_token_ids(trace, job)
    _check_lengths(trace, job, server)
    if settings.scrape_interval_s is not None:
        check_scraping(address, headers)
    warm_up(job, settings.num_warmups)
    with ExitStack() as stack:
        scraper: Scraper | None = None
        if settings.scrape_interval_s is not None:
            scraper = stack.enter_context(scraping(address, headers, settings.scrape_interval_s))
        progress = stack.enter_context(run_progress(1, disable_tqdm=disable_tqdm))
        name = settings.label or server.name
        on_progress = stack.enter_context(progress.run(name, settings.seed, len(trace.requests)))
        traffic = send_traffic(job, settings.workers, on_progress, interrupts)
        scraped = scraper.stop() if scraper is not None else None
    return conclude(settings, trace, server, str(address), traffic, scraped)


def _body_options(settings: ReplaySettings, server: Server) -> BodyOptions:
    return BodyOptions(
        vocab_size=settings.vocab_size or server.vocab_size,
        ignore_eos=settings.ignore_eos,
        temperature=settings.temperature,
        ask_token_ids=settings.prompt is PromptForm.TOKENS and settings.answers is AnswerSource.SERVER,
        ask_server_times=server.owner == VLLM,
        extra=settings.extra_body,
    )


def _send_options(settings: ReplaySettings, trace: Trace) -> SendOptions:
    options = SendOptions(settings.max_concurrency, settings.retries, id_prefix=f"libra-{settings.seed}")
    if settings.answers is AnswerSource.RECORDED:
        return options
    used = {segment.id for request in trace.requests for segment in request.prompt}
    named = {request.output for request in trace.requests if request.output is not None}
    if not used & named:
        raise LibraError("--answers server: no prompt of this trace holds an earlier answer; use --answers recorded")
    return replace(options, answers=frozenset(used & named))


def _check_lengths(trace: Trace, job: Job, server: Server) -> None:
    """Raises LibraError where requests are longer than the server said it takes: it would refuse each of them."""
    if server.max_length is None or job.prompt is not PromptForm.TOKENS:
        return
    lengths = [request.num_prompt_tokens + request.output_tokens for request in trace.requests]
    too_long = sum(length > server.max_length for length in lengths)
    if too_long:
        raise LibraError(
            f"{too_long:,} of {len(lengths):,} requests are longer than the {server.max_length:,} tokens that the "
            f"server takes, up to {max(lengths):,}; cut them with --max-prompt-tokens and --max-output-tokens"
        )


def _check_token_ids(trace: Trace, job: Job) -> None:
    """Raises LibraError where a trace's own token ids are outside the vocabulary of a server that told its size."""
    largest = max((max(request.prompt_token_ids or (0,)) for request in trace.requests), default=0)
    if job.prompt is PromptForm.TOKENS and largest >= job.body.vocab_size:
        raise LibraError(
            f"the trace holds token id {largest}, outside a vocabulary of {job.body.vocab_size:,}; "
            "give the server's --vocab-size, or send --prompt text"
        )
