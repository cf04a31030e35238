"""`libra bench --device cuda` end to end, its device replaced by one that does at once what it is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.cli import app
from libra.errors import LibraError
from tests.tiny_models import TinyModel

torch = pytest.importorskip("torch")

from libra.engine.device import CpuDevice  # noqa: E402 - torch may be absent

SHORT = [
    "bench", "--device", "cuda", "--workload", "chatbot", "--policy", "fastlibra", "--num-loras", "3",
    "--duration", "2", "--request-rate", "2", "--block-size", "19", "--max-prompt-tokens", "24",
    "--max-output-tokens", "3", "--cache-fraction", "0.8", "--host-cache-gib", "0.01", "--dtype", "float32",
    "--max-num-batched-tokens", "16", "--max-num-seqs", "2", "--disable-tqdm",
]  # fmt: skip


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("bench.platform_real.open_device", lambda name: CpuDevice())


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """meta.json of the run."""
    result = CliRunner().invoke(app, [*SHORT, "--out", str(tmp_path / "run"), *arguments])
    assert result.exit_code == 0, result.output + str(result.exception)
    meta: dict[str, Any] = json.loads((tmp_path / "run" / "meta.json").read_text(encoding="utf-8"))
    return meta


@pytest.mark.usefixtures("on_cpu")
def test_a_directory_runs_on_the_device_it_is_given(tiny_model: TinyModel, tmp_path: Path) -> None:
    meta = run(tmp_path, "--model", str(tiny_model.directory), "--backend", "torch", "--enforce-eager")
    assert meta["complete"]
    assert meta["captions"] == [f"measured on {CpuDevice().describe()} (float32, torch)"]
    assert "backend_fallback" not in meta["runs"][0]


@pytest.mark.usefixtures("on_cpu")
def test_a_preset_runs_on_random_weights_and_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from libra.model.tiny import TINY_SIZES

    presets = {"shapes": replace(TINY_SIZES["tiny"], name="shapes")}
    monkeypatch.setattr("bench.real_device.MODELS", presets)
    meta = run(tmp_path, "--model", "shapes", "--backend", "torch", "--ranks", "4,8")
    assert meta["complete"]
    assert meta["conditions"]["model"] == "shapes"


@pytest.mark.usefixtures("on_cpu")
def test_a_kernel_that_does_not_compile_is_flagged_in_meta_json(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton", reason="Triton exists for Linux alone")

    def refuse(*arguments: object) -> None:
        raise triton.errors.TritonError("out of registers")

    monkeypatch.setattr("libra.kernels.backend.add_rms_norm", refuse)
    with pytest.warns(UserWarning, match="out of registers"):
        meta = run(tmp_path, "--model", str(tiny_model.directory))
    assert "out of registers" in meta["runs"][0]["backend_fallback"]
    assert "kernels failed to compile" in meta["captions"][0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["bench --workload chatbot", "validate --workload chatbot", "profile --out p.json"])
def test_without_cuda_it_is_one_line(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--device", "cuda"])
    assert isinstance(result.exception, LibraError)
    assert str(result.exception).startswith("--device cuda: ")
    assert "\n" not in str(result.exception)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--dtype", "float64"), "unknown dtype 'float64'"),
        (("--backend", "tritn"), "unknown backend 'tritn'"),
        (("--block-size", "1"), "use --block-size"),
        (("--model", "lama3-8b"), "no such file"),
    ],
)
def test_what_cannot_run_is_one_line(tiny_model: TinyModel, arguments: tuple[str, ...], fault: str) -> None:
    result = CliRunner().invoke(app, [*SHORT, "--model", str(tiny_model.directory), "--backend", "torch", *arguments])
    assert isinstance(result.exception, LibraError)
    assert fault in str(result.exception)
    assert "\n" not in str(result.exception)


def test_heads_that_kernels_cannot_hold_are_one_line() -> None:
    from libra.kernels.backend import make_backend
    from libra.model.paged_kv import PagedKV
    from libra.model.random_model import random_model
    from libra.model.tiny import TINY_SIZES

    pytest.importorskip("triton", reason="Triton exists for Linux alone")
    spec = replace(TINY_SIZES["tiny"], head_dim=512)
    network = random_model(spec, torch.float32, torch.device("cpu"), make_backend("triton"))
    kv = PagedKV(torch.zeros(2, spec.block_elems(16)), spec, 16)
    with pytest.raises(LibraError, match="heads of 512 dimensions"):
        network.backend.planner(kv, spec, {})
