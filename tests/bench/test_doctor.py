"""The doctor tells what works and never fails itself."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import bench.doctor
from bench.doctor import (
    CORE_PACKAGES,
    ENGINE_PACKAGES,
    PYTHON_VERSIONS,
    REFERENCE_PACKAGES,
    Check,
    Status,
    TorchReport,
    examine,
    is_older,
    probe_torch,
)
from bench.doctor_cli import doctor
from bench.doctor_table import doctor_table
from tests.bench.golden import render

WORKING_TORCH = TorchReport("", 2, "12.8", ("NVIDIA H800 (80 GiB, compute 9.0)",))


def install(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], torch: TorchReport) -> None:
    """Lets the doctor see these packages on top of all others at a version that is new enough."""
    monkeypatch.setattr(bench.doctor, "package_version", lambda name: versions.get(name, "99.0") or None)
    monkeypatch.setattr(bench.doctor, "probe_torch", lambda: torch)


def checks_by_name(width: int = 100) -> dict[str, Check]:
    return {check.name: check for check in examine(Path.cwd(), width)}


def test_requirements_are_those_of_pyproject() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    core = dict(text.split(">=") for text in project["dependencies"])
    extras = project["optional-dependencies"]
    engine = dict(text.split(";")[0].strip().split(">=") for text in extras["engine"])
    reference = dict(text.split(">=") for text in extras["dev"] if text.split(">=")[0] in REFERENCE_PACKAGES)
    assert (core, engine, reference) == (CORE_PACKAGES, ENGINE_PACKAGES, REFERENCE_PACKAGES)
    assert project["requires-python"] == f">={PYTHON_VERSIONS[0]},<{PYTHON_VERSIONS[1]}"


@pytest.mark.parametrize(
    ("version", "least", "older"),
    [
        ("1.25.9", "1.26", True),
        ("1.26", "1.26.0", False),
        ("2.13.0+cpu", "2.6", False),
        ("0.4.5rc1", "0.4.5", False),
        ("3.9", "3.10", True),
        ("unknown", "1", True),
    ],
)
def test_versions_compare_by_number(version: str, least: str, older: bool) -> None:
    assert is_older(version, least) is older


def test_everything_works_on_a_full_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {}, WORKING_TORCH)
    checks = checks_by_name()
    assert checks["--device cuda"].status is Status.OK
    assert "H800" in checks["--device cuda"].detail
    assert checks["--device cpu"].detail == "2 threads"
    assert "sim:a10" in checks["--device sim:…"].detail


def test_missing_torch_leaves_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"torch": ""}, TorchReport("torch is not installed"))
    checks = checks_by_name()
    assert checks["torch"].detail == "missing; pip install 'libra-lora[engine]'"
    assert checks["--device cpu"].status is checks["--device cuda"].status is Status.OPTIONAL
    assert "torch missing" in checks["--device cpu"].detail
    assert checks["--device sim:…"].status is Status.OK


def test_cpu_build_of_torch_has_no_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {}, TorchReport("", 2))
    checks = checks_by_name()
    assert checks["--device cpu"].status is Status.OK
    assert checks["--device cuda"].detail == "this torch is a CPU build"


def test_broken_torch_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {}, TorchReport("import torch fails: ImportError: libcudart.so.12"))
    checks = checks_by_name()
    assert "libcudart" in checks["torch at work"].detail
    assert "libcudart" in checks["--device cpu"].detail


@pytest.mark.parametrize("failure", ["crash", "timeout", "missing"])
def test_probe_survives_whatever_torch_does(monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    def run(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        if failure == "timeout":
            raise subprocess.TimeoutExpired(command, 1)
        return subprocess.CompletedProcess(command, -11, "", "")

    monkeypatch.setattr(bench.doctor, "package_version", lambda _: None if failure == "missing" else "2.13")
    monkeypatch.setattr(bench.doctor.subprocess, "run", run)
    fault = probe_torch().fault
    assert {"crash": "exit code -11", "timeout": "TimeoutExpired", "missing": "not installed"}[failure] in fault


def test_old_and_missing_core_packages_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"numpy": "1.20", "xxhash": ""}, WORKING_TORCH)
    checks = checks_by_name(width=60)
    assert checks["numpy"].status is checks["xxhash"].status is Status.FAULT
    assert "1.20 is too old, 1.26 is needed" in checks["numpy"].detail
    assert checks["width"].status is Status.OPTIONAL


def test_table_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"torch": "", "numpy": "1.20"}, TorchReport("torch is not installed"))
    text = render(doctor_table(examine(Path.cwd(), 80)), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "✗" in text
    assert "–" in text


def run_doctor(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(doctor)
    outcome = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return outcome.exit_code, outcome.stdout


def test_command_fails_only_when_the_core_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"torch": ""}, TorchReport("torch is not installed"))
    code, text = run_doctor("--json")
    assert code == 0
    assert {check["status"] for check in json.loads(text)} == {"ok", "optional"}
    install(monkeypatch, {"numpy": "1.0"}, WORKING_TORCH)
    code, text = run_doctor()
    assert code == 1
    assert "numpy" in text


def test_bench_modules_load_neither_torch_nor_pandas() -> None:
    modules = "metrics table adapter_table output saved_run compare compare_table compare_cli doctor_cli progress"
    script = f"import sys{''.join(f', bench.{name}' for name in modules.split())}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "pyarrow"} & set(done.stdout.split())
