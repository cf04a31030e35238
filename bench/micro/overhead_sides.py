"""The loads of bench.micro.http_overhead, and how one goes over HTTP."""

import asyncio
import json
import time
import urllib.request
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from bench.replay.answer import Answer
from bench.replay.client import Client
from bench.replay.http import parse_url
from bench.replay.job import fastest_loop, loop_factory
from bench.replay.settings import COMPLETIONS
from bench.soak.process import processor_s
from libra.server.engine_loop import SNAPSHOT_INTERVAL_S
from libra.short_slices import ask_for_short_slices

_TIMEOUT_S = 120.0
_LEAD_S = 0.05


@dataclass(frozen=True)
class Load:
    """Equal requests with prompts that share nothing, adapters in turn. ``request_rate`` None is a closed loop that
    keeps ``concurrency`` requests open; else arrivals are Poisson."""

    num_requests: int
    prompt_tokens: int
    output_tokens: int
    vocab_size: int
    adapters: tuple[str, ...]
    seed: int
    request_rate: float | None = None
    concurrency: int = 8

    @property
    def num_tokens(self) -> int:
        """Of all answers."""
        return self.num_requests * self.output_tokens

    def prompts(self) -> list[tuple[int, ...]]:
        drawn = np.random.default_rng(self.seed).integers(1, self.vocab_size, (self.num_requests, self.prompt_tokens))
        return [tuple(row) for row in drawn.tolist()]

    def arrivals_s(self) -> list[float]:
        """When each request is due; all at once in a closed loop."""
        if self.request_rate is None:
            return [0.0] * self.num_requests
        gaps = np.random.default_rng(self.seed + 1).exponential(1.0 / self.request_rate, self.num_requests)
        times: list[float] = np.cumsum(gaps).tolist()
        return times

    def adapter(self, number: int) -> str:
        return self.adapters[number % len(self.adapters)]


@dataclass(frozen=True)
class Measured:
    """``ttft_ms`` of each request, ``engine_ttft_ms`` as the engine reports it; all tokens of the load over the time it
    took; the processor time of each of them, by who used it (engine, server, client); the engine's steps.
    ``send_lag_ms``: how late the client was with a request, on average; no part of its TTFT."""

    ttft_ms: list[float]
    engine_ttft_ms: list[float]
    tokens_per_s: float
    processor_ms_per_token: dict[str, float]
    num_steps: int
    send_lag_ms: float = 0.0


def over_http(process: int, url: str, load: Load) -> Measured:
    """The load from this process, by the client of `libra replay` as that runs it: in the event loop it prefers, with
    short slices from here on. ``process`` serves at ``url``; its children are the engine."""
    ask_for_short_slices()
    num_steps = _steps_told(url)
    before = processor_s(process)
    with asyncio.Runner(loop_factory=loop_factory(fastest_loop())) as runner:
        measured = runner.run(_over_http(url, load))
    processor_ms = {name: 1e3 * (after_s - before[name]) for name, after_s in processor_s(process).items()}
    return replace(
        measured,
        processor_ms_per_token=measured.processor_ms_per_token
        | {name: spent_ms / load.num_tokens for name, spent_ms in processor_ms.items()},
        num_steps=_steps_told(url) - num_steps,
    )


def _steps_told(url: str) -> int:
    """The engine's steps up to now; it rests, and tells them after a while."""
    time.sleep(2.0 * SNAPSHOT_INTERVAL_S)
    with urllib.request.urlopen(f"{url}/metrics", timeout=_TIMEOUT_S) as response:
        page = response.read().decode()
    line = next(line for line in page.splitlines() if line.startswith("libra:engine_steps_total{"))
    return int(float(line.rpartition(" ")[2]))


async def _over_http(url: str, load: Load) -> Measured:
    """``num_steps``, and the processor time of others than the client, are not known here."""
    client = Client(parse_url(url), COMPLETIONS, {}, _TIMEOUT_S)
    slots = asyncio.Semaphore(load.num_requests if load.request_rate is not None else load.concurrency)
    bodies = [_body(load, number, prompt) for number, prompt in enumerate(load.prompts())]
    started_s, before_s = time.monotonic() + _LEAD_S, time.process_time()

    async def send(number: int, due_s: float) -> tuple[float, Answer]:
        await asyncio.sleep(due_s - time.monotonic())
        async with slots:
            # A closed loop's requests are due when they get a slot.
            due_s = due_s if load.request_rate is not None else time.monotonic()
            return due_s, await client.post(bodies[number], f"overhead-{number}")

    sent = await asyncio.gather(*(send(number, started_s + s) for number, s in enumerate(load.arrivals_s())))
    ended_s, used_s = time.monotonic(), time.process_time() - before_s
    client.close()
    for _, answer in sent:
        if answer.fault is not None or answer.output_tokens != load.output_tokens:
            raise RuntimeError(f"a request failed: {answer.fault or answer.output_tokens}")
    return Measured(
        [1e3 * (answer.token_times[0] - answer.sent_s) for _, answer in sent],
        [1e3 * _engine_ttft_s(answer) for _, answer in sent],
        load.num_tokens / (ended_s - started_s),
        {"client": 1e3 * used_s / load.num_tokens},
        num_steps=0,
        send_lag_ms=1e3 * fmean(answer.sent_s - due_s for due_s, answer in sent),
    )


def _body(load: Load, number: int, prompt: tuple[int, ...]) -> bytes:
    body: dict[str, Any] = {
        "model": load.adapter(number), "prompt": prompt, "max_tokens": load.output_tokens, "ignore_eos": True,
        "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
        # The engine has, or will have, the same prompts without HTTP: neither side is to find the other's KV.
        "cache_salt": "http",
    }  # fmt: skip
    return json.dumps(body).encode()


def _engine_ttft_s(answer: Answer) -> float:
    told = answer.server_times
    assert told is not None
    return told.queue_s + told.adapter_load_s + told.kv_load_s + told.prefill_s
