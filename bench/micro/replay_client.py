"""How much `libra replay` can send: requests and streamed tokens per second, and how late it sends.

`python -m bench.micro.replay_client`: Poisson arrivals against a stub in a process of its own, on this machine's cores.
Writes results/server/replay_client.json. Run it on an idle machine.
"""

import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bench.machine import describe_machine, package_version
from bench.micro.replay_stub import StubOptions, serve_stub
from bench.replay.check import check_arrivals, check_usage, count_failures
from bench.replay.controller import SentTraffic, send_traffic
from bench.replay.http import parse_url
from bench.replay.job import Job
from bench.replay.prompts import BodyOptions
from bench.replay.sender import SendOptions
from bench.replay.settings import COMPLETIONS, EventLoop, PromptForm
from libra.request import Request, Segment

SETTLE_S = 1.0


@dataclass(frozen=True)
class Load:
    """Poisson arrivals of equal requests."""

    request_rate: float
    duration_s: float
    num_tokens: int
    prompt_tokens: int = 8
    seed: int = 0

    def requests(self) -> tuple[Request, ...]:
        rng = np.random.default_rng(self.seed)
        count = int(self.request_rate * self.duration_s)
        arrivals = np.cumsum(rng.exponential(1.0 / self.request_rate, count))
        prompt = (Segment("prompt", 0, self.prompt_tokens),)
        return tuple(
            Request(number, float(at_s), None, self.num_tokens, prompt) for number, at_s in enumerate(arrivals)
        )


def main(
    request_rate: float = 2000.0,
    duration: Annotated[float, typer.Option(min=2.0, help="Seconds of arrivals.")] = 10.0,
    num_tokens: int = 25,
    workers: int = 1,
    loop: EventLoop = EventLoop.UVLOOP,
    stub_loop: EventLoop = EventLoop.UVLOOP,
    repeats: int = 3,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = Path(
        "results/server/replay_client.json"
    ),
) -> None:
    """Sends the load ``repeats`` times and prints one JSON line for each."""
    load = Load(request_rate, duration, num_tokens)
    rows = []
    for _ in range(repeats):
        rows.append(measure(load, workers, loop, stub_loop))
        typer.echo(json.dumps(rows[-1]))
    if out is not None:
        setting = {"workers": workers, "loop": loop, "stub_loop": stub_loop, "uvloop": package_version("uvloop")}
        document = {"load": asdict(load), "setting": setting, "machine": describe_machine(), "rows": rows}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def measure(load: Load, workers: int, loop: EventLoop, stub_loop: EventLoop) -> dict[str, float | None]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    stub = context.Process(target=serve_stub, args=(StubOptions(load.num_tokens, loop=stub_loop), theirs))
    stub.start()
    theirs.close()
    try:
        job = Job(
            address=parse_url(f"http://127.0.0.1:{ours.recv()}"),
            endpoint=COMPLETIONS,
            headers={},
            timeout_s=60.0,
            prompt=PromptForm.TOKENS,
            body=BodyOptions(vocab_size=32_000),
            models={None: "stub"},
            outputs=frozenset(),
            send=SendOptions(),
            requests=load.requests(),
            loop=loop,
        )
        traffic = send_traffic(job, workers, lambda time_s, num_done: None)
        ours.send(None)
        return figures(traffic, float(ours.recv()))
    finally:
        ours.close()
        stub.join()


def figures(traffic: SentTraffic, stub_processor_s: float) -> dict[str, float | None]:
    """What the run was, in steady state: between the first second, in which connections open and streams become as many
    as there will be, and the last arrival. ``stub_processor_s`` is the stub's processor time."""
    finished = [seen for seen in traffic.observations if seen.finished]
    usage = check_usage(traffic.observations, exact_prompt=True, asked_prompt_tokens=0)
    arrivals = check_arrivals(traffic.observations)
    end_s = max(seen.record.arrival_s for seen in traffic.observations)
    tokens = np.concatenate([np.array(seen.record.token_times) for seen in finished])
    steady = [seen for seen in traffic.observations if seen.record.arrival_s >= SETTLE_S]
    per_request = 1e6 / len(traffic.observations)
    return {
        "requests_per_s": round(arrivals.sent.rate or 0.0, 1),
        "tokens_per_s": round(float(((tokens >= SETTLE_S) & (tokens < end_s)).sum()) / (end_s - SETTLE_S), 1),
        **{f"failed: {kind}": number for kind, number in count_failures(traffic.observations).items()},
        "wrong_counts": usage.contradictions + usage.wrong_length,
        "mean_send_lag_ms": round(arrivals.mean_send_lag_ms or 0.0, 3),
        "p99_send_lag_ms": round(arrivals.p99_send_lag_ms or 0.0, 3),
        "max_send_lag_ms": round(arrivals.max_send_lag_ms or 0.0, 3),
        "p99_send_lag_settled_ms": round(check_arrivals(steady).p99_send_lag_ms or 0.0, 3),
        "sender_processor_us_per_request": round(traffic.processor_s * per_request, 1),
        "stub_processor_us_per_request": round(stub_processor_s * per_request, 1),
    }


if __name__ == "__main__":
    typer.run(main)
