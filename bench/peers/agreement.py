"""Do three load generators measure the same of one `libra serve`? libra's own, vLLM's and SGLang's.

``python -m bench.peers.agreement --vllm VENV/bin/vllm --sglang-python VENV/bin/python --model DIR``: each sends
requests of equal lengths to one adapter, the next when the one before has been answered, in turns over several rounds.
Prints mean TTFT and TPOT of each, and writes them to results/serve/agreement.csv. Exit code 1 when a client is off
libra's by more than 3 ms of TTFT or 2 % of TPOT. Run it on an idle machine.
"""

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
        _run(LIBRA, command)
        (figures,) = json.loads((out / "summary.json").read_text(encoding="utf-8"))["policies"].values()
        return self._checked(LIBRA, figures, int(figures["completed"]))

    def vllm_bench(self, seed: int) -> tuple[float, float]:
        name, shape = f"vllm-{seed}.json", self.shape
        command = [str(self.vllm), "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions"]
        command += ["--lora-modules", shape.adapter, "--ignore-eos", "--dataset-name", "random", *self._common(seed)]
        command += ["--save-result", "--result-dir", str(self.scratch), "--result-filename", name]
        _run("vllm bench serve", command)
        figures = json.loads((self.scratch / name).read_text(encoding="utf-8"))
        return self._checked("vllm bench serve", figures, figures["completed"])

    def sglang_bench(self, seed: int) -> tuple[float, float]:
        out, shape = self.scratch / f"sglang-{seed}.jsonl", self.shape
        command = [str(self.sglang_python), str(SGLANG_CLIENT), "--backend", "sglang-oai"]
        command += ["--lora-name", shape.adapter, "--dataset-name", "random-ids", *self._common(seed)]
        _run("SGLang's bench_serving", [*command, "--random-range-ratio", "1.0", "--output-file", str(out)])
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
    num_prompts: int = 30,
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
    with serving(command, port, scratch / "server.log") as url, task_progress(3 * rounds, "runs") as progress:
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
                prompt_tokens = _mean_prompt(before, counters(url))
                rows.append(
                    {
                        "client": name,
                        "round": number,
                        "mean_ttft_ms": ttft_ms,
                        "mean_tpot_ms": tpot_ms,
                        "server_mean_prompt_tokens": prompt_tokens,
                    }
                )
                progress.advance(name)
    return rows


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each client's means over the rounds and how far they are from libra's."""

    def means(client: str) -> tuple[float, float]:
        own = [row for row in rows if row["client"] == client]
        return fmean(row["mean_ttft_ms"] for row in own), fmean(row["mean_tpot_ms"] for row in own)

    libra_ttft_ms, libra_tpot_ms = means(LIBRA)
    table = []
    for client in dict.fromkeys(row["client"] for row in rows):
        ttft_ms, tpot_ms = means(client)
        off_ms, off = ttft_ms - libra_ttft_ms, tpot_ms / libra_tpot_ms - 1
        table.append(
            {
                "client": client,
                "mean_ttft_ms": ttft_ms,
                "ttft_off_ms": off_ms,
                "mean_tpot_ms": tpot_ms,
                "tpot_off_percent": 100 * off,
                "agrees": abs(off_ms) <= TTFT_TOLERANCE_MS and abs(off) <= TPOT_TOLERANCE,
            }
        )
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


def _mean_prompt(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Tokens per prompt as the server counted them between two scrapes, the client's warm-up included."""
    names = ("vllm:request_prompt_tokens_sum", "vllm:request_prompt_tokens_count")
    tokens, requests = (after[name] - before.get(name, 0.0) for name in names)
    return tokens / requests


def _run(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | _OFFLINE)
    if done.returncode != 0:
        last = ((done.stderr or done.stdout).strip().splitlines() or ["it said nothing"])[-1]
        raise LibraError(f"{name} ended with code {done.returncode}: {last}")


if __name__ == "__main__":
    typer.run(main)
