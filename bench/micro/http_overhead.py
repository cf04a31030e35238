"""What HTTP adds: one load against a server, and the same handed to the engine of that server, in turn.

`python -m bench.micro.http_overhead DIR` on an idle machine; DIR is what `libra model make-tiny DIR` wrote. Two equal
engines differ, as long as they live, by more than is looked for, so that both sides have the same one. Every round
gives both sides the same requests and changes which side goes first, so that what the machine does meanwhile meets
both; every few rounds there is a new server. Takes 35 seconds a round. Writes results/server/http_overhead.json.
"""

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import typer

from bench.machine import describe_machine
from bench.micro.overhead_server import serve_and_drive
from bench.micro.overhead_sides import Load, Measured, over_http
from libra.errors import LibraError

Side = Callable[[Load], Measured]
Sides = tuple[Side, Side]
Start = Callable[[], AbstractContextManager[Sides]]
Pair = tuple[Measured, Measured]
# Milliseconds of mean TTFT and the share of the throughput that HTTP may cost.
MAX_ADDED_MS, MAX_LOST = 3.0, 0.05
ROUNDS_PER_SERVER = 5
_STOP_S = 10.0


@contextmanager
def served_engine(directory: Path) -> Iterator[Sides]:
    """A server in a process of its own: a load over HTTP, and one on its engine alone."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve_and_drive, args=(directory, theirs))
    process.start()
    theirs.close()

    def alone(load: Load) -> Measured:
        ours.send(load)
        measured: Measured = ours.recv()
        return measured

    try:
        address: str = ours.recv()
        assert process.pid is not None
        yield partial(over_http, process.pid, address), alone
    finally:
        ours.close()
        process.join(_STOP_S)
        process.kill()


def compare(start: Start, loads: Sequence[Load], rounds: int) -> list[list[Pair]]:
    """(over HTTP, without) of every round, for each of the loads; the last load warms a new engine first, uncounted."""
    pairs: list[list[Pair]] = [[] for _ in loads]
    for first in range(0, rounds, ROUNDS_PER_SERVER):
        with start() as (http, alone):
            sides = [http, alone]
            for side in sides:
                side(replace(loads[-1], seed=loads[-1].seed - 1))
            for number in range(first, min(first + ROUNDS_PER_SERVER, rounds)):
                turn = slice(None, None, -1 if number % 2 else 1)
                for load, of_load in zip(loads, pairs, strict=True):
                    drawn = replace(load, seed=load.seed + 10 * number)
                    over, without = [measure(drawn) for measure in sides[turn]][turn]
                    of_load.append((over, without))
    return pairs


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def summarise(opened: list[Pair], closed: list[Pair]) -> dict[str, Any]:
    """Per round, then the median over rounds. ``added_ttft_ms``: difference of the mean TTFT at a steady rate;
    ``beyond_engine_ms``: of the client's TTFT and what the engine reports for the same request; ``send_lag_ms``: of
    when a request left and when it was due, the load generator's own and no part of its TTFT;
    ``throughput_lost``: share of the closed loop's tokens per second; ``steps_added``: how many more steps the engine
    needed for them, as a share, since a client's next request misses the step after its last one's end.
    """
    return {
        "added_ttft_ms": spread([fmean(http.ttft_ms) - fmean(alone.ttft_ms) for http, alone in opened]),
        "beyond_engine_ms": spread(
            [fmean(http.ttft_ms) - fmean(http.engine_ttft_ms) for http, _ in opened]
        ),
        "send_lag_ms": spread([http.send_lag_ms for http, _ in opened]),
        "ttft_ms_without": spread([fmean(alone.ttft_ms) for _, alone in opened]),
        "throughput_lost": spread([1.0 - http.tokens_per_s / alone.tokens_per_s for http, alone in closed]),
        "steps_added": spread([http.num_steps / alone.num_steps - 1.0 for http, alone in closed]),
        "tokens_per_s_without": spread([alone.tokens_per_s for _, alone in closed]),
    }  # fmt: skip


def rows(loop: str, pairs: list[Pair]) -> list[dict[str, Any]]:
    """One row for each round and side; processor time is by who used it."""
    return [
        {
            "loop": loop,
            "round": number,
            "side": side,
            "mean_ttft_ms": round(fmean(measured.ttft_ms), 3),
            "tokens_per_s": round(measured.tokens_per_s, 2),
            "steps": measured.num_steps,
            "processor_ms_per_token": {
                name: round(value, 4) for name, value in sorted(measured.processor_ms_per_token.items())
            },
        }
        for number, pair in enumerate(pairs)
        for side, measured in zip(("http", "alone"), pair, strict=True)
    ]


def main(
    directory: Path,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each comparison.")] = 20,
    request_rate: Annotated[float, typer.Option(help="Arrivals per second where TTFT is compared.")] = 4.0,
    num_requests: Annotated[int, typer.Option(help="Requests of each load.")] = 32,
    concurrency: Annotated[int, typer.Option(help="Requests at a time where throughput is compared.")] = 8,
    prompt_tokens: int = 64,
    output_tokens: int = 64,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = Path(
        "results/server/http_overhead.json"
    ),
) -> None:
    """Compares both sides and prints one JSON line. Exit code 1 when HTTP adds more than it may."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    adapters = tuple(sorted(path.name for path in (directory / "adapters").iterdir()))
    if not adapters:
        raise LibraError(f"{directory}/adapters: empty; make a model with `libra model make-tiny`")
    load = Load(num_requests, prompt_tokens, output_tokens, config["vocab_size"], adapters, seed=1)
    loads = replace(load, request_rate=request_rate), replace(load, concurrency=concurrency)
    opened, closed = compare(partial(served_engine, directory), loads, rounds)
    figures = summarise(opened, closed)
    typer.echo(json.dumps(figures))
    if out is not None:
        setting = {"model": directory.name, "rounds": rounds, "concurrency": concurrency}
        setting |= {"num_requests": num_requests, "prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
        setting |= {"request_rate": request_rate}
        each = [*rows("open", opened), *rows("closed", closed)]
        document = {"figures": figures, "setting": setting, "machine": describe_machine(), "rows": each}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if figures["added_ttft_ms"]["median"] > MAX_ADDED_MS or figures["throughput_lost"]["median"] > MAX_LOST:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
