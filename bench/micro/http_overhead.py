"""What HTTP adds: the same closed loop against `libra serve` and against an engine in this process.

`python -m bench.micro.http_overhead DIR` on an idle machine; DIR is what `libra model make-tiny DIR` wrote. Prints the
time to first token that the client sees beyond what the engine reports, and tokens per second of both.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import aiohttp
import numpy as np
import typer

from bench.platform import limit_openmp_spinning

PROMPT_TOKENS, OUTPUT_TOKENS, VOCABULARY = 64, 64, 512


def prompts(count: int) -> list[list[int]]:
    """Prompts that share nothing."""
    generator = np.random.default_rng(0)
    return [generator.integers(1, VOCABULARY, PROMPT_TOKENS).tolist() for _ in range(count)]


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """The address of a `libra serve` of its own process."""
    command = [sys.executable, "-m", "bench.cli", "serve", str(directory), "--lora-dir", str(directory / "adapters")]
    with subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        yield next(word for word in process.stderr.readline().split() if word.startswith("http://"))
        process.terminate()


async def closed_loop(url: str, count: int, concurrency: int) -> tuple[list[float], float]:
    """Milliseconds to the first token beyond the engine's own, and tokens per second."""
    added_ms: list[float] = []
    waiting = prompts(count)

    async def worker(session: aiohttp.ClientSession, adapters: list[str]) -> None:
        while waiting:
            prompt = waiting.pop()
            body = {
                "model": adapters[len(waiting) % len(adapters)], "prompt": prompt, "max_tokens": OUTPUT_TOKENS,
                "ignore_eos": True, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
            }  # fmt: skip
            added_ms.append(await _added_ms(session, f"{url}/v1/completions", body))

    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/v1/models") as response:
            adapters = [card["id"] for card in (await response.json())["data"] if card["parent"]]
        started_s = time.perf_counter()
        await asyncio.gather(*(worker(session, adapters) for _ in range(concurrency)))
        return added_ms, count * OUTPUT_TOKENS / (time.perf_counter() - started_s)


async def _added_ms(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> float:
    sent_s, first_s, last = time.perf_counter(), None, b""
    async with session.post(url, json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                first_s, last = first_s or time.perf_counter(), line
    told = json.loads(last.removeprefix(b"data: "))["usage"]["libra"]
    engine_s: float = sum(told[f"{part}_s"] for part in ("queue", "adapter_load", "kv_load", "prefill"))
    assert first_s is not None
    return 1e3 * (first_s - sent_s - engine_s)


def in_process(directory: Path, count: int, concurrency: int) -> float:
    """Tokens per second of the engine alone, kept at ``concurrency`` requests."""
    from libra.cache.fastlibra import FASTLIBRA
    from libra.engine.sequence import SamplingParams
    from libra.request import Request
    from libra.server.build import build_parts
    from libra.server.settings import EngineSettings, ServerSettings

    parts = build_parts(
        ServerSettings("base", lora_dirs=(directory / "adapters",)), EngineSettings(FASTLIBRA, directory)
    )
    engine, waiting = parts.engine, prompts(count)
    adapters, started_s = list(parts.paths), time.perf_counter()
    while waiting or engine.scheduler.has_work:
        scheduler = engine.scheduler
        while waiting and len(scheduler.waiting) + len(scheduler.loading) + len(scheduler.running) < concurrency:
            prompt = tuple(waiting.pop())
            adapter = adapters[len(waiting) % len(adapters)]
            request = Request(len(waiting), engine.clock.now(), adapter, OUTPUT_TOKENS, prompt_token_ids=prompt)
            engine.submit(request, SamplingParams())
        engine.step()
    seconds = time.perf_counter() - started_s
    engine.manager.memory.link.close()
    return count * OUTPUT_TOKENS / seconds


def main(
    directory: Path,
    count: Annotated[int, typer.Option(help="Requests of each loop.")] = 64,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 8,
    repeats: int = 3,
) -> None:
    """Measures all in turn and prints one line each."""
    limit_openmp_spinning()
    added, over_http, alone = [], [], []
    for _ in range(repeats):
        with serving(directory) as url:
            added += asyncio.run(closed_loop(url, count, 1))[0]
            over_http.append(asyncio.run(closed_loop(url, count, concurrency))[1])
        alone.append(in_process(directory, count, concurrency))
    typer.echo(f"TTFT beyond the engine's: median {median(added):.2f} ms, mean {mean(added):.2f} ms")
    typer.echo(f"tokens/s over HTTP {median(over_http):.0f}, in process {median(alone):.0f}")
    typer.echo(f"throughput lost: {100 * (1 - median(over_http) / median(alone)):.1f} %")


if __name__ == "__main__":
    typer.run(main)
