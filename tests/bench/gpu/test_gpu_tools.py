"""The measurements that need a GPU, as far as they go without: kernels compile for Hopper, and checks pass."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.kernels import KernelSettings
from bench.gpu.readme import readme_text
from bench.gpu.rows import COLUMNS
from bench.gpu.run_all import run_all, slug
from bench.gpu.stages import BUDGET_S, KERNEL_ROWS, Stage, plan, run_stages
from libra.errors import LibraError

pytest.importorskip("triton", reason="Triton exists for Linux alone")

HOPPER_SHARED_BYTES = 227 * 1024
KERNELS = {
    "attention_kernel", "copy_kernel", "expand_kernel", "merge_kernel", "norm_kernel", "rotate_kernel", "shrink_kernel",
    "silu_mul_kernel", "write_kernel",
}  # fmt: skip


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own: there, other tests' interpreter is off unless asked for."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False)


def test_every_kernel_compiles_within_hoppers_limits() -> None:
    done = run("bench.gpu.compile_report")
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert {report["kernel"] for report in reports} == KERNELS
    for report in reports:
        assert report["stack_bytes"] == 0, f"registers spill: {report}"
        assert report["shared_bytes"] <= HOPPER_SHARED_BYTES
        assert report["wide_loads"] > 0, f"no load is 16 bytes wide: {report}"


def test_the_interpreter_compiles_nothing() -> None:
    done = run("bench.gpu.compile_report", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET is set" in done.stderr


def test_kernels_and_peers_pass_their_checks(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    arguments = ("--no-timing", "--dtype", "bfloat16", "--out", str(rows))
    done = run("bench.gpu.kernels", *arguments, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    header, *lines = rows.read_text(encoding="utf-8").splitlines()
    assert header.startswith("kernel,implementation,dtype,shape,error")
    assert summary == {"rows": len(lines), "failed_checks": 0, "out": str(rows)}
    assert all(",ok,,,,,," in line for line in lines), "nothing is timed without a GPU"


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(LibraError, match="did you mean 'attention'"):
        KernelSettings(only=("lora", "atention"))
    with pytest.raises(LibraError, match="unknown dtype 'float64'"):
        KernelSettings(dtypes=("float64",))


def test_what_cannot_be_timed_is_one_line() -> None:
    done = run("bench.gpu.kernels", TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr == "error: no CUDA device to time kernels on; use --no-timing for the checks alone\n"


def test_vllm_off_a_gpu_is_refused() -> None:
    arguments = ("--no-timing", "--only", "peers", "--peer-vllm", ".")
    done = run("bench.gpu.kernels", *arguments, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "vLLM's kernels run on a CUDA device" in done.stderr


# ---- make gpu ------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_is_one_line_and_code_2(tmp_path: Path) -> None:
    done = run("bench.gpu.run_all", "--out", str(tmp_path / "gpu"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no GPU to measure: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "gpu").exists()


def test_it_imports_nothing_that_a_gpu_machine_may_lack() -> None:
    script = (
        "import sys\n"
        "absent = ('pyarrow', 'xxhash', 'pytest', 'hypothesis', 'matplotlib', 'aiohttp', 'prometheus_client')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "import bench.gpu.run_all, bench.gpu.kernels, bench.gpu.attention_cases, bench.gpu.layer_cases\n"
        "import bench.gpu.lora_cases, bench.gpu.peers\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_stages_report_what_became_of_them(tmp_path: Path) -> None:
    script = "import sys; print('noise'); print('the last line'); sys.exit({})"
    for name, code in (("good", 0), ("bad", 1)):
        (tmp_path / f"{name}.py").write_text(script.format(code), encoding="utf-8")
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)", encoding="utf-8")
    stages = [
        Stage("first", ("good",), 60),
        Stage("second", ("bad",), 60),
        Stage("third", ("slow",), 0.5),
        Stage("fourth", ("good",), 60, "not built yet"),
    ]
    said: list[str] = []
    results = list(run_stages(stages, tmp_path, tmp_path, said.append))
    assert [result.status for result in results] == ["ok", "failed", "out of time", "absent"]
    assert [result.detail for result in results] == [
        "the last line", "the last line", "stopped after 0 s", "not built yet",
    ]  # fmt: skip
    assert results[0].command == "python -m good"
    assert said[-1] == "fourth: absent, 0 s: not built yet"
    assert {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.log")} == {
        "second": "noise\nthe last line\n", "third": "",
    }  # fmt: skip


def test_a_device_gets_rows_meta_and_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = kernel_row("libra", "batch=1", median_us="10.0", of_floor="0.8")
    text = ",".join(row) + "\\n" + ",".join(map(str, row.values()))

    def stages(directory: Path, peer_vllm: Path | None) -> list[Stage]:
        write = f"open('{directory / KERNEL_ROWS}', 'w').write('{text}')"
        return [Stage("kernels", ("timeit", "-n", "1", "-r", "1", write), 60), Stage("profile", (), 1, "not built yet")]

    monkeypatch.setattr("bench.gpu.run_all.plan", stages)
    results = run_all("NVIDIA H200", tmp_path / "gpu", None)
    assert [result.status for result in results] == ["ok", "absent"]
    target = tmp_path / "gpu" / "nvidia-h200"
    assert sorted(path.name for path in target.iterdir()) == ["README.md", KERNEL_ROWS, "meta.json"]
    assert "| batch=1 | 10.0 (0.8) |" in (target / "README.md").read_text(encoding="utf-8")
    meta = json.loads((target / "meta.json").read_text(encoding="utf-8"))
    assert (meta["device"], meta["partial"]) == ("NVIDIA H200", False)
    assert [stage["detail"] for stage in meta["stages"]][1] == "not built yet"


def test_every_stage_runs_the_engine_with_a_limit_of_its_own(tmp_path: Path) -> None:
    stages = {stage.name: stage for stage in plan(tmp_path, Path("vllm"))}
    assert stages["kernels"].arguments[-2:] == ("--peer-vllm", "vllm")
    for name in ("engine benchmark", "profile", "validate"):
        assert stages[name].arguments[:1] == ("bench.cli",)
        assert "cuda" in stages[name].arguments
    assert sum(stage.limit_s for stage in stages.values()) <= BUDGET_S
    assert stages["validate"].obstacle().startswith("needs profile.json")
    (tmp_path / "profile.json").touch()
    assert stages["validate"].obstacle() == stages["validate"].absent


def test_a_dry_run_lists_the_stages_without_a_gpu() -> None:
    done = run("bench.gpu.run_all", "--dry-run", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert [line.partition(",")[0] for line in done.stdout.splitlines()] == [
        stage.name for stage in plan(Path("out"), None)
    ]


@pytest.mark.parametrize("module", ["bench.gpu.steps", "bench.gpu.peft_engine"])
def test_stages_of_the_engine_are_one_line_without_a_gpu(module: str) -> None:
    done = run(module, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --device cuda: ")
    assert done.stderr.count("\n") == 1


ON_A_CPU = """
import torch
from bench.gpu.engine_world import EngineWorld
from bench.gpu.measure import Ceilings
from bench.gpu.peft_engine import Batch, libra_seconds, peft_seconds
from bench.gpu.steps import StepScale, step_rows, swap_rows
from libra.engine.device import CpuDevice
from libra.kernels.backend import make_backend
from libra.model.random_model import random_model
from libra.model.tiny import TINY_SIZES

torch.set_num_threads(1)
spec, device = TINY_SIZES["tiny"], CpuDevice()
batch = Batch(sequences=3, prompt=8, answer=4, adapters=2, rank=4, backend="torch")
assert libra_seconds(device, spec, torch.float32, batch)[1] == peft_seconds(device, spec, torch.float32, batch)[1] == 12
scale = StepScale((1, 2), context=20, rank=4, chunks=(8,), transfers=12, large=4, repeats=1)
network = random_model(spec, torch.float32, device.place, make_backend("torch"), max_length=64)
with EngineWorld(network, scale.points(), device, num_host=8) as world:
    for row in (*swap_rows(world, scale), *step_rows(world, scale, Ceilings(1e9, 1e9))):
        assert row["check"] == "ok" and row["of_floor"] > 0, row
        print(row["kernel"])
"""


def test_steps_and_swaps_and_peft_run_as_they_do_on_a_gpu() -> None:
    done = run("timeit", "-n", "1", "-r", "1", ON_A_CPU, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:-1] == [
        "swap in", "swap out", "swap both ways", "decode step", "decode step", "decode step",
        "decode step during swaps", "decode step", "prefill step", "prefill step",
    ]  # fmt: skip


def test_devices_become_directory_names() -> None:
    assert slug("NVIDIA H200") == "nvidia-h200"
    assert slug("NVIDIA A100-SXM4-80GB") == "nvidia-a100-sxm4-80gb"


def kernel_row(implementation: str, shape: str, **values: str) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "") | {"kernel": "shrink", "dtype": "bfloat16", "check": "ok", "error": "1e-3"}
    return row | {"implementation": implementation, "shape": shape} | values


def test_the_readme_is_made_of_the_rows() -> None:
    rows = [
        kernel_row("libra", "batch=1", median_us="10.0", of_floor="0.8"),
        kernel_row("libra", "batch=8", median_us="12.0", of_floor="0.6"),
        kernel_row("vllm", "batch=1", check="failed", error="0.3"),
    ]
    stage = {"name": "GPU tests", "status": "absent", "seconds": 0.0, "detail": "no | pytest"}
    meta = {
        "device": "NVIDIA H200", "command": "make gpu", "created": "today", "versions": {"torch": "2.6", "peft": None},
        "source": {"commit": "0123456789abcdef", "dirty": True}, "stages": [stage],
    }  # fmt: skip
    text = readme_text(rows, meta)
    assert "| shrink | libra | bfloat16 | 2 | 0 | 0.70 (0.60) |" in text
    assert "| shrink | vllm | bfloat16 | 1 | 1 | not timed |" in text
    assert "| batch=1 | 10.0 (0.8) | wrong: error 0.3 |" in text
    assert "| batch=8 | 12.0 (0.6) |  |" in text
    assert "| GPU tests | absent | 0 | no \\| pytest |" in text
    assert "Versions: torch 2.6." in text
    assert "source 0123456789ab with changes" in text
    assert "Kernels" not in readme_text([], meta)
    figure = {"policy": "slora", "metric": "mean_ttft_ms", "real": "12.345", "simulated": "12.1"}
    text = readme_text([], meta, [figure, figure | {"policy": "vllm", "simulated": ""}])
    assert "| measured → simulated | slora | vllm |" in text
    assert "| mean_ttft_ms | 12.3 → 12.1 | 12.3 → - |" in text
