"""The stages of `make gpu`: what each runs, for how long at most, and what became of it."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Under nine minutes with what starting and writing take.
BUDGET_S = 520.0
KERNEL_ROWS, STEP_ROWS, PEFT_ROWS, PROFILE = "kernels.csv", "steps.csv", "peft.csv", "profile.json"

_GPU_TESTS = ("tests/libra/kernels", "tests/libra/engine/test_device_executor.py")


@dataclass(frozen=True)
class Stage:
    """``arguments`` follow ``python -m``. ``absent`` says why the stage cannot run, "" when it can; ``needs`` a file,
    and why it cannot without."""

    name: str
    arguments: tuple[str, ...]
    limit_s: float
    absent: str = ""
    needs: tuple[Path, str] | None = None

    def obstacle(self) -> str:
        """Why it cannot run now, "" when it can."""
        if not self.absent and self.needs is not None and not self.needs[0].is_file():
            return self.needs[1]
        return self.absent


@dataclass(frozen=True)
class StageResult:
    """``status``: ok, failed, out of time, or absent. ``detail``: why, or the last line that the stage printed."""

    name: str
    status: str
    seconds: float
    detail: str
    command: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan(directory: Path, peer_vllm: Path | None) -> list[Stage]:
    """All stages, results going to ``directory``. None needs another but validate, which takes the profile."""
    cache = ("--cache-fraction", "0.5", "--host-cache-gib", "16", "--max-num-seqs", "64")
    load = ("--device", "cuda", "--workload", "chatbot", *cache, "--policy", "fastlibra,vllm,slora")
    peers = () if peer_vllm is None else ("--peer-vllm", str(peer_vllm))
    profile = directory / PROFILE
    engine, results = _missing("xxhash"), _missing("xxhash", "pyarrow")
    measured = f"needs {PROFILE} of the stage before"
    return [
        Stage("GPU tests", ("pytest", "-m", "gpu", *_GPU_TESTS), 80.0, _missing("pytest", "xxhash")),
        Stage("kernels", ("bench.gpu.kernels", "--out", str(directory / KERNEL_ROWS), *peers), 120.0),
        Stage("steps and swaps", ("bench.gpu.steps", "--out", str(directory / STEP_ROWS)), 70.0, engine),
        Stage(
            "engine benchmark",
            ("bench.cli", "bench", *load, "--duration", "12", "--disable-tqdm", "--out", str(directory / "engine")),
            90.0,
            results,
        ),
        Stage(
            "profile",
            ("bench.cli", "profile", "--device", "cuda", "--rounds", "3", "--budget", "0", "--out", str(profile)),
            50.0,
            engine,
        ),
        Stage(
            "validate",
            ("bench.cli", "validate", *load, "--duration", "8", "--disable-tqdm", "--profile", str(profile),
             "--out", str(directory / "validate")),
            60.0,
            engine,
            needs=(profile, measured),
        ),
        Stage(
            "against peft",
            ("bench.gpu.peft_engine", "--out", str(directory / PEFT_ROWS)),
            50.0,
            _missing("transformers", "peft", "xxhash"),
        ),
    ]  # fmt: skip


def run_stages(stages: list[Stage], root: Path, logs: Path, say: Callable[[str], None]) -> Iterator[StageResult]:
    """Runs one stage after the other in ``root``, all together within BUDGET_S, and yields each as it ends. What those
    that fail have printed is kept in ``logs``/<stage>.log."""
    started_s = time.monotonic()
    for stage in stages:
        left_s = BUDGET_S - (time.monotonic() - started_s)
        if stage.obstacle():
            result = StageResult(stage.name, "absent", 0.0, stage.obstacle(), "")
        elif left_s < 1:
            result = StageResult(stage.name, "out of time", 0.0, "the stages before it took all the time", "")
        else:
            say(f"{stage.name} ...")
            result = _run(stage, root, logs, min(stage.limit_s, left_s))
        say(f"{stage.name}: {result.status}, {result.seconds:.0f} s: {result.detail}")
        yield result


def _run(stage: Stage, root: Path, logs: Path, limit_s: float) -> StageResult:
    command = ["python", "-m", *stage.arguments]
    log = logs / f"{stage.name.replace(' ', '-')}.log"
    started_s = time.monotonic()
    with log.open("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen([sys.executable, *command[1:]], cwd=root, stdout=output, stderr=subprocess.STDOUT)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        lines = output.read().strip().splitlines()
    status = {0: "ok", None: "out of time"}.get(code, "failed")
    if status == "ok":
        log.unlink()
    detail = lines[-1] if lines else f"exit code {code}"
    if code is None:
        detail = f"stopped after {limit_s:.0f} s"
    return StageResult(stage.name, status, time.monotonic() - started_s, detail, " ".join(command))


def _missing(*packages: str) -> str:
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""
