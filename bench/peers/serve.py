"""The same traffic against `libra serve` and the real vLLM, one after the other on this machine's CPU.

``python -m bench.peers.serve --vllm VENV/bin/vllm --model DIR`` writes results/serve: summary.csv, requests.csv.gz,
meta.json, README.md. Each server gets the machine for itself, the same model, data type, adapters and requests, sent by
`libra replay`; `libra compare` pairs the requests. Run it on an idle machine.
"""

import csv
import gzip
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.documents import to_json
from bench.machine import describe_machine, package_versions, source_revision
from bench.output import csv_text
from bench.peers.files import command_line, peer_program
from bench.peers.serve_readme import serve_readme
from bench.peers.servers import HOST, VllmOptions, ask, free_port, serving, vocab_size
from bench.progress import task_progress
from libra.errors import LibraError

LIBRA, VLLM = "libra", "vllm"
MAX_MODEL_LEN = 1024
# What a summary row takes from a replay's summary.json.
METRICS = (
    "completed",
    "mean_ttft_ms",
    "p95_ttft_ms",
    "mean_tpot_ms",
    "p95_tpot_ms",
    "mean_e2el_ms",
    "output_throughput",
    "kv_hit_rate",
)


@dataclass(frozen=True)
class Load:
    """Traffic that both servers can sustain: `libra replay`'s chatbot, cut to these lengths.

    ``num_loras`` 0 sends everything to the base model; vLLM is then started without adapters, which is its fast path.
    """

    name: str
    num_loras: int
    request_rate: float
    duration_s: float
    max_prompt_tokens: int
    max_output_tokens: int

    def arguments(self, seed: int) -> list[str]:
        """What to give `libra replay` for it."""
        arguments = ["--workload", "chatbot", "--num-loras", str(max(self.num_loras, 1)), "--seed", str(seed)]
        arguments += ["--request-rate", f"{self.request_rate:g}", "--duration", f"{self.duration_s:g}"]
        arguments += ["--max-prompt-tokens", str(self.max_prompt_tokens)]
        arguments += ["--max-output-tokens", str(self.max_output_tokens)]
        return arguments if self.num_loras else [*arguments, "--base-share", "1"]


# vLLM's adapter kernels on CPU are slow in mixed batches, hence the lighter load there.
LOADS = (Load("base", 0, 3.0, 15.0, 256, 64), Load("adapters", 4, 0.7, 15.0, 128, 32))


@dataclass(frozen=True)
class Bench:
    """Where the servers are and what they serve."""

    vllm: Path
    model: Path
    dtype: str
    vllm_cores: str
    scratch: Path
    libra: Sequence[str] = (sys.executable, "-m", "bench.cli")

    @contextmanager
    def server(self, name: str, load: Load) -> Iterator[str]:
        """Runs one of the two servers for ``load`` and yields its address."""
        port = free_port()
        command = self._libra(port) if name == LIBRA else self._vllm(load, port)
        cores = {"VLLM_CPU_OMP_THREADS_BIND": self.vllm_cores}
        with serving(command, port, self.scratch / f"{name}-{load.name}.log", cores) as url:
            yield url

    def _libra(self, port: int) -> list[str]:
        command = [*self.libra, "serve", str(self.model), "--lora-dir", str(self.model / "adapters")]
        command += ["--served-model-name", "base", "--dtype", self.dtype, "--host", HOST, "--port", str(port)]
        return [*command, "--max-model-len", str(MAX_MODEL_LEN), "--hbm-cache-gib", "1"]

    def _vllm(self, load: Load, port: int) -> list[str]:
        adapters = sorted((self.model / "adapters").glob("lora-*"))[: load.num_loras]
        if len(adapters) < load.num_loras:
            raise LibraError(
                f"--model {self.model}: holds {len(adapters)} adapters lora-NN, {load.num_loras} are needed"
            )
        options = VllmOptions(self.vllm, self.model, adapters, max(load.num_loras, 1), max_model_len=MAX_MODEL_LEN)
        return [*options.command(port), "--dtype", self.dtype]

    def replay(self, url: str, name: str, load: Load, seed: int) -> Path:
        """Replays ``load`` and returns the run's directory. Raises LibraError when `libra replay` makes none."""
        out = self.scratch / f"{name}-{load.name}-{seed}"
        command = [*self.libra, "replay", "--url", url, "--label", name, "--out", str(out), "--no-report"]
        command += ["--num-warmups", "4", "--vocab-size", str(vocab_size(self.model))]
        done = subprocess.run([*command, *load.arguments(seed)], capture_output=True, text=True, check=False)
        if not (out / "meta.json").is_file():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise LibraError(f"libra replay against {name} ended with code {done.returncode}: {last}")
        return out

    def compare(self, baseline: Path, run: Path) -> list[dict[str, str]]:
        """The rows of `libra compare`: figures of both over the same requests, with intervals."""
        command = [*self.libra, "compare", str(baseline), str(run), "--format", "csv"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return list(csv.DictReader(done.stdout.splitlines()))


def main(
    vllm: Annotated[Path, typer.Option(help="The peer's executable, such as VENV/bin/vllm.")],
    model: Annotated[Path, typer.Option(help="A directory that libra model make-tiny wrote, with adapters.")],
    repeats: Annotated[int, typer.Option(min=1, help="Seeds of the traffic.")] = 3,
    dtype: str = "bfloat16",
    vllm_cores: Annotated[str, typer.Option(help="VLLM_CPU_OMP_THREADS_BIND: auto, or cores such as 0-1.")] = "auto",
    scale: Annotated[float, typer.Option(help="Shortens the loads, for a try.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results/serve"),
) -> None:
    """Replays each load against both servers and writes the rows."""
    loads = [Load(**{**asdict(load), "duration_s": load.duration_s * scale}) for load in LOADS]
    with peer_program(), tempfile.TemporaryDirectory() as scratch:
        bench = Bench(vllm, model, dtype, vllm_cores, Path(scratch))
        runs: dict[tuple[str, str, int], Path] = {}
        versions: dict[str, str] = {}
        with task_progress(len(loads) * 2 * repeats, "replays") as progress:
            for load in loads:
                for name in (LIBRA, VLLM):
                    with bench.server(name, load) as url:
                        versions[name] = str(ask(f"{url}/version")["version"])
                        for seed in range(repeats):
                            runs[load.name, name, seed] = bench.replay(url, name, load, seed)
                            progress.advance(f"{name}, {load.name}")
        write_results(bench, loads, runs, versions, out)


def write_results(
    bench: Bench,
    loads: Sequence[Load],
    runs: dict[tuple[str, str, int], Path],
    versions: dict[str, str],
    out: Path,
) -> None:
    """Gathers the runs into ``out``. Raises LibraError when it cannot be written."""
    summary, requests, compared = [], [], []
    for (load, name, seed), run in runs.items():
        setting = {"load": load, "server": name, "seed": seed}
        summary.append(setting | _figures(run))
        with (run / "rows.csv").open(encoding="utf-8", newline="") as lines:
            requests += [setting | row for row in csv.DictReader(lines)]
        if name == VLLM:
            compared += [{"load": load, "seed": seed, **row} for row in bench.compare(run, runs[load, LIBRA, seed])]
    meta = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "dtype": bench.dtype,
        "vllm_cores": bench.vllm_cores,
        "loads": {load.name: asdict(load) | {"replay": shlex.join(load.arguments(0))} for load in loads},
        "servers": versions,
        "source": source_revision(),
        "versions": package_versions(),
        "machine": describe_machine(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "summary.csv").write_text(csv_text(summary), encoding="utf-8")
        (out / "compare.csv").write_text(csv_text(compared), encoding="utf-8")
        (out / "requests.csv.gz").write_bytes(gzip.compress(csv_text(requests).encode(), mtime=0))
        (out / "meta.json").write_text(to_json(meta, indent=1) + "\n", encoding="utf-8")
        (out / "README.md").write_text(serve_readme(summary, meta), encoding="utf-8")
    except OSError as error:
        raise LibraError(f"--out {out}: cannot be written ({error.strerror}); name another directory") from error
    for row in summary:
        typer.echo(to_json(row))


def _figures(run: Path) -> dict[str, Any]:
    """What a replay measured, and whether it calls itself valid."""
    (summary,) = json.loads((run / "summary.json").read_text(encoding="utf-8"))["policies"].values()
    (meta,) = json.loads((run / "meta.json").read_text(encoding="utf-8"))["runs"]
    verdict = meta["verdict"]
    return {
        **{name: summary.get(name) for name in METRICS},
        "valid": verdict["valid"],
        "reasons": "; ".join(verdict["reasons"]),
    }


if __name__ == "__main__":
    typer.run(main)
