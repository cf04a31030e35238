"""All that is measured on a GPU, in one command of under nine minutes: `make gpu`, or `python -m bench.gpu.run_all`.

It needs a checkout, torch, triton, numpy, pandas, typer, rich, safetensors, transformers and peft; with pytest it also
runs the tests that need a GPU. Writes results/gpu/<device>/: rows of kernels, steps and swaps, runs of the engine, a
profile, meta.json, README.md made of them, and what a stage that failed has printed. Exit code 2 without a CUDA
device, 1 when a stage fails.
"""

import csv
import re
import shlex
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.doctor import probe_torch
from bench.documents import to_json
from bench.gpu.readme import readme_text
from bench.gpu.stages import KERNEL_ROWS, PEFT_ROWS, STEP_ROWS, StageResult, plan, run_stages
from bench.machine import describe_machine, package_version, package_versions, source_revision
from libra.errors import LibraError

ROOT = Path(__file__).parents[2]
# Stages that have not come to an end as they should.
_FAULTS = ("failed", "out of time")


def main(
    out: Annotated[Path, typer.Option(help="Directory of the directories of devices.")] = Path("results/gpu"),
    peer_vllm: Annotated[Path | None, typer.Option(help="Directory that holds the package vllm, 0.33.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the stages and run none.")] = False,
) -> None:
    """Runs every stage and writes results/gpu/<device>/."""
    if dry_run:
        for stage in plan(out / "DEVICE", peer_vllm):
            command = shlex.join(["python", "-m", *stage.arguments])
            typer.echo(f"{stage.name}, at most {stage.limit_s:.0f} s: {stage.absent or command}")
        return
    try:
        device = find_device()
        if peer_vllm is not None and not (peer_vllm / "vllm").is_dir():
            raise LibraError(f"--peer-vllm {peer_vllm}: holds no package vllm; name the directory above it")
        results = run_all(device, out, peer_vllm)
    except LibraError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if any(result.status in _FAULTS for result in results):
        raise typer.Exit(1)


def find_device() -> str:
    """The first CUDA device's name. Raises LibraError where torch finds none."""
    torch = probe_torch()
    if torch.fault:
        raise LibraError(f"nothing to measure: {torch.fault}; install torch with CUDA")
    if not torch.gpus:
        why = "torch finds no CUDA device" if torch.cuda_build else "this torch is a CPU build"
        raise LibraError(f"no GPU to measure: {why}; run this on a machine with one")
    return torch.gpus[0].partition(" (")[0]


def run_all(device: str, out: Path, peer_vllm: Path | None) -> list[StageResult]:
    """Runs the stages and moves their files to ``out``/<device>. What a stage left when it was stopped is kept, and
    said to be partial. Raises LibraError when nothing can be written there."""
    target = (out / slug(device)).absolute()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".running-", dir=target) as name:
            staging = Path(name)
            results = list(run_stages(plan(staging, peer_vllm), ROOT, staging, typer.echo))
            meta = _meta(device, results)
            rows = [row for name in (KERNEL_ROWS, STEP_ROWS, PEFT_ROWS) for row in read_rows(staging / name)]
            text = readme_text(rows, meta, read_rows(staging / "validate" / "validation.csv"))
            (staging / "README.md").write_text(text, encoding="utf-8")
            (staging / "meta.json").write_text(to_json(meta, indent=1) + "\n", encoding="utf-8")
            for path in sorted(staging.rglob("*")):
                if path.is_file():
                    place = target / path.relative_to(staging)
                    place.parent.mkdir(exist_ok=True)
                    path.replace(place)
    except OSError as error:
        raise LibraError(f"{target}: cannot be written ({error.strerror}); give another --out") from error
    statuses = {result.name: result.status for result in results}
    typer.echo(to_json({"device": device, "out": str(target), "rows": len(rows), "stages": statuses}))
    return results


def slug(device: str) -> str:
    """NVIDIA H200 -> nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file; none where its stage wrote none."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _meta(device: str, results: list[StageResult]) -> dict[str, Any]:
    versions = package_versions()
    versions |= {name: package_version(name) for name in ("torch", "triton", "transformers", "peft")}
    return {
        "schema": "libra-gpu",
        "schema_version": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.gpu.run_all", *sys.argv[1:]]),
        "device": device,
        "partial": any(result.status in _FAULTS for result in results),
        "stages": [result.as_dict() for result in results],
        "versions": versions,
        "source": source_revision(),
        "machine": describe_machine(),
    }


if __name__ == "__main__":
    typer.run(main)
