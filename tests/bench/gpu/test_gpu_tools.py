"""The measurements that need a GPU, as far as they go without: kernels compile for Hopper, and checks pass."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.kernels import KernelSettings
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
