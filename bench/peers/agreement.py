"""Do three load generators measure the same of one `libra serve`? libra's own, vLLM's and SGLang's.

``python -m bench.peers.agreement --vllm VENV/bin/vllm --sglang-python VENV/bin/python --model DIR``: each sends
requests of equal lengths to one adapter, the next when the one before has been answered, in turns over several rounds.
All ask for greedy answers of exact length with prompts of their own, send nothing else, and count from sending. The
server computes on one thread, so that a client takes no time from it where there are two cores.

A server is not equally fast twice, and the clients make their prompts of text, which is a few tokens more or less. So
each run is held against what the server's own histograms say of its requests: judged are TTFT beyond the server's, and
TPOT as a multiple of the server's. Prints them and the plain figures, and writes results/serve/agreement.csv. Exit code
1 when a client is off libra's by more than 3 ms of TTFT or 2 % of TPOT. Run it on an idle machine; it takes 4 minutes.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from bench.documents import to_json
from bench.output import csv_text
from bench.peers.files import peer_program
from bench.peers.servers import HOST, counters, free_port, serving
from bench.progress import task_progress
from libra.errors import LibraError
from libra.request import Request, Segment
from workloads.header import Provenance, TraceHeader
from workloads.trace import Trace, write_trace

TTFT_TOLERANCE_MS, TPOT_TOLERANCE = 3.0, 0.02
LIBRA = "libra replay"
SGLANG_CLIENT = Path(__file__).parents[2] / "tests" / "clients" / "sglang_bench.py"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_TTFT, _TPOT = "vllm:time_to_first_token_seconds", "vllm:request_time_per_output_token_seconds"
_PROMPT = "vllm:request_prompt_tokens"


@dataclass(frozen=True)
class Shape:
    """What every client sends: so many requests of these lengths, in tokens, to one adapter, one at a time."""

    num_requests: int
    prompt_tokens: int
    output_tokens: int
    adapter: str


@dataclass(frozen=True)
class Clients:
    """The three load generators, on one server. Each call returns mean TTFT and TPOT in ms."""

    url: str
    model: Path
    vllm: Path
    sglang_python: Path
    shape: Shape
    scratch: Path

    def libra(self, seed: int) -> tuple[float, float]:
        trace, out = self.scratch / f"trace-{seed}.jsonl", self.scratch / f"libra-{seed}"
        write_trace(trace, chain(self.shape, seed))
        command = [sys.executable, "-m", "bench.cli", "replay", "--url", self.url, "--trace", str(trace)]
        # A late sender shows in TTFT, which is what is judged here.
        command += ["--max-send-lag", "1000", "--out", str(out), "--no-report", "--seed", str(seed)]
        _run(LIBRA, [*command, "--num-warmups", "0"])
        (figures,) = json.loads((out / "summary.json").read_text(encoding="utf-8"))["policies"].values()
        ttft_ms, tpot_ms = self._checked(LIBRA, figures, int(figures["completed"]))
        return ttft_ms - _mean_delay_ms(out / "requests.csv"), tpot_ms

    def vllm_bench(self, seed: int) -> tuple[float, float]:
        name, shape = f"vllm-{seed}.json", self.shape
        command = [str(self.vllm), "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions"]
        command += ["--lora-modules", shape.adapter, "--ignore-eos", "--temperature", "0"]
        command += ["--dataset-name", "random", "--ready-check-timeout-sec", "0", *self._common(seed)]
        command += ["--save-result", "--result-dir", str(self.scratch), "--result-filename", name]
        _run("vllm bench serve", command)
        figures = json.loads((self.scratch / name).read_text(encoding="utf-8"))
        return self._checked("vllm bench serve", figures, figures["completed"])

    def sglang_bench(self, seed: int) -> tuple[float, float]:
        out, shape = self.scratch / f"sglang-{seed}.jsonl", self.shape
        command = [str(self.sglang_python), str(SGLANG_CLIENT), "--backend", "sglang-oai"]
        command += ["--lora-name", shape.adapter, "--dataset-name", "random-ids", *self._common(seed)]
        command += ["--random-range-ratio", "1.0", "--warmup-requests", "0", "--output-file", str(out)]
        _run("SGLang's bench_serving", command)
        figures = json.loads(out.read_text(encoding="utf-8").splitlines()[-1])
        return self._checked("SGLang's bench_serving", figures, figures["completed"])

    def _common(self, seed: int) -> list[str]:
        """Flags that vLLM's and SGLang's generators share."""
        shape = self.shape
        flags = ["--base-url", self.url, "--model", "base", "--tokenizer", str(self.model), "--disable-tqdm"]
        flags += ["--random-input-len", str(shape.prompt_tokens), "--random-output-len", str(shape.output_tokens)]
        return [*flags, "--num-prompts", str(shape.num_requests), "--max-concurrency", "1", "--seed", str(seed)]

    def _checked(self, name: str, figures: Mapping[str, Any], completed: int) -> tuple[float, float]:
        if completed != self.shape.num_requests:
            raise LibraError(f"{name}: {completed} of {self.shape.num_requests} requests were answered")
        return float(figures["mean_ttft_ms"]), float(figures["mean_tpot_ms"])


def main(
    vllm: Annotated[Path, typer.Option(help="vLLM's executable, such as VENV/bin/vllm.")],
    sglang_python: Annotated[Path, typer.Option(help="A Python with SGLang's load generator.")],
    model: Annotated[Path, typer.Option(help="A directory that libra model make-tiny wrote, with adapters.")],
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    num_prompts: int = 24,
    input_len: int = 64,
    output_len: int = 32,
    out: Annotated[Path, typer.Option(help="Directory of agreement.csv.")] = Path("results/serve"),
) -> None:
    """Runs the clients in turns against one server and judges their agreement."""
    shape = Shape(num_prompts, input_len, output_len, "lora-00")
    with peer_program(), tempfile.TemporaryDirectory() as scratch:
        rows = measure(shape, model, vllm, sglang_python, rounds, Path(scratch))
        table = summarise(rows)
        out.mkdir(parents=True, exist_ok=True)
        (out / "agreement.csv").write_text(csv_text(rows), encoding="utf-8")
        for row in table:
            typer.echo(to_json(row))
    if not all(row["agrees"] for row in table):
        raise typer.Exit(1)


def measure(
    shape: Shape, model: Path, vllm: Path, sglang_python: Path, rounds: int, scratch: Path
) -> list[dict[str, Any]]:
    """One row for each client and round; the order of the clients turns from round to round, against drift."""
    port, rows = free_port(), []
    command = [sys.executable, "-m", "bench.cli", "serve", str(model), "--lora-dir", str(model / "adapters")]
    command += ["--served-model-name", "base", "--dtype", "bfloat16", "--host", HOST, "--port", str(port)]
    with (
        serving(command, port, scratch / "server.log", _ONE_THREAD) as url,
        task_progress(3 * rounds, "runs") as progress,
    ):
        clients = Clients(url, model, vllm, sglang_python, shape, scratch)
        calls: list[tuple[str, Callable[[int], tuple[float, float]]]] = [
            (LIBRA, clients.libra),
            ("vllm bench serve", clients.vllm_bench),
            ("SGLang bench_serving", clients.sglang_bench),
        ]
        clients.libra(rounds)  # the first requests load the adapter and warm the machine
        for number in range(rounds):
            for turn in range(len(calls)):
                name, call = calls[(number + turn) % len(calls)]
                before = counters(url)
                ttft_ms, tpot_ms = call(number)
                row = {"client": name, "round": number, "mean_ttft_ms": ttft_ms, "mean_tpot_ms": tpot_ms}
                rows.append(row | server_figures(before, counters(url), shape.num_requests))
                progress.advance(name)
    return rows


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each client's means over the rounds, and how far they are from libra's: plainly, and against the server's own."""

    def means(client: str) -> dict[str, float]:
        own = [row for row in rows if row["client"] == client]
        return {
            "mean_ttft_ms": fmean(row["mean_ttft_ms"] for row in own),
            "mean_tpot_ms": fmean(row["mean_tpot_ms"] for row in own),
            "ttft_beyond_server_ms": fmean(row["mean_ttft_ms"] - row["server_ttft_ms"] for row in own),
            "tpot_over_server": fmean(row["mean_tpot_ms"] / row["server_tpot_ms"] for row in own),
        }

    ours = means(LIBRA)
    table: list[dict[str, Any]] = []
    for client in dict.fromkeys(row["client"] for row in rows):
        theirs = means(client)
        off_ms = theirs["ttft_beyond_server_ms"] - ours["ttft_beyond_server_ms"]
        off = theirs["tpot_over_server"] / ours["tpot_over_server"] - 1
        plain_off_ms = theirs["mean_ttft_ms"] - ours["mean_ttft_ms"]
        plain_off = theirs["mean_tpot_ms"] / ours["mean_tpot_ms"] - 1
        offs = {"plain_ttft_off_ms": plain_off_ms, "plain_tpot_off_percent": 100 * plain_off}
        offs |= {"ttft_off_ms": off_ms, "tpot_off_percent": 100 * off}
        agrees = abs(off_ms) <= TTFT_TOLERANCE_MS and abs(off) <= TPOT_TOLERANCE
        table.append({"client": client, **theirs, **offs, "agrees": agrees})
    return table


def chain(shape: Shape, seed: int) -> Trace:
    """Requests with prompts of their own, each sent when the one before has been answered."""
    requests = tuple(
        Request(
            id=number,
            arrival_s=0.0,
            adapter=shape.adapter,
            output_tokens=shape.output_tokens,
            prompt=(Segment(f"prompt {number} of seed {seed}", 0, shape.prompt_tokens),),
            after=(number - 1,) if number else (),
        )
        for number in range(shape.num_requests)
    )
    generated = Provenance("generated", "generated", "generated", "generated")
    return Trace(TraceHeader("chain", seed, generated, 1.0, {shape.adapter: None}), requests)


def server_figures(before: Mapping[str, float], after: Mapping[str, float], num_requests: int) -> dict[str, float]:
    """What the server's histograms say of the requests between two scrapes: mean TTFT, TPOT and prompt length.

    Raises LibraError when they are not the ``num_requests`` of one client.
    """

    def mean(name: str) -> float:
        total, count = (after[f"{name}_{part}"] - before.get(f"{name}_{part}", 0.0) for part in ("sum", "count"))
        if count != num_requests:
            raise LibraError(f"the server counts {count:g} requests in {name}, {num_requests} were sent; run it alone")
        return total / count

    return {
        "server_ttft_ms": 1e3 * mean(_TTFT),
        "server_tpot_ms": 1e3 * mean(_TPOT),
        "server_prompt_tokens": mean(_PROMPT),
    }


def _mean_delay_ms(requests: Path) -> float:
    """Between a request's scheduled time, from which libra counts, and its sending, from which the others do."""
    with requests.open(encoding="utf-8", newline="") as lines:
        return 1e3 * fmean(float(row["sent_s"]) - float(row["scheduled_s"]) for row in csv.DictReader(lines))


def _run(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | _OFFLINE)
    if done.returncode != 0:
        last = ((done.stderr or done.stdout).strip().splitlines() or ["it said nothing"])[-1]
        raise LibraError(f"{name} ended with code {done.returncode}: {last}")


if __name__ == "__main__":
    typer.run(main)
