"""The real engine beside its simulation: on one clock they agree to the token."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.validate import GOALS, HIT_COUNTS, STEPS, Deviation
from libra.engine.profile import datasheet_profile
from libra.errors import LibraError
from libra.model.tiny import TINY_SIZES
from libra.spec import DEVICES, MODELS
from tests.tiny_models import TinyModel

# Two seconds of tiny requests, and a cache that is too small for them and the adapters.
LOAD = ("--workload", "chatbot", "--duration", "4", "--request-rate", "5", "--num-loras", "4", "--block-size", "16")
LENGTHS = ("--max-prompt-tokens", "120", "--max-output-tokens", "12", "--cache-fraction", "0.6", "--disable-tqdm")


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A device on which steps and loads of the tiny model take long enough to overlap."""
    path = tmp_path / "profile.json"
    datasheet_profile(DEVICES["a10"], TINY_SIZES["tiny"], 1).with_link(2e7).save(path)
    return path


def test_on_one_clock_every_count_and_every_time_is_equal(tiny_model: TinyModel, profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "validation"
    arguments = ["validate", *LOAD, *LENGTHS, "--paced", "--policy", "fastlibra,slora", "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--model", str(tiny_model.directory), "--profile", str(profile)])
    assert result.exception is None, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["goals"] == summary["goals_met"] == 2 * len(GOALS)
    assert list(summary["policies"]) == ["fastlibra", "slora"]
    for figures in summary["policies"].values():
        assert figures["completed"]["real"] > 5
        for metric in HIT_COUNTS:
            assert figures[metric]["real"] == figures[metric]["simulated"]
        steps = [figures[metric] for metric in STEPS]
        assert all(step["relative_error"] == pytest.approx(0.0, abs=1e-9) for step in steps)
        assert 0 < steps[1]["real"] < steps[0]["real"] < steps[2]["real"]
        assert figures["mean_ttft_ms"]["relative_error"] == pytest.approx(0.0, abs=1e-12)
    assert summary["policies"]["fastlibra"]["kv_hit_tokens"]["real"] > 0
    assert "Paced" in result.stdout
    with (out / "validation.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["policy"] for row in rows} == {"fastlibra", "slora"}
    assert all(float(row["error"]) == 0 for row in rows if row["metric"] in HIT_COUNTS)
    with (out / "requests.csv").open(encoding="utf-8", newline="") as file:
        sides = [row["side"] for row in csv.DictReader(file)]
    assert sides.count("real") == sides.count("simulated") > 0
    meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
    assert (meta["study"], meta["paced"], meta["partial"]) == ("validate", True, False)
    assert json.loads((out / "profile.json").read_text(encoding="utf-8"))["name"] == "a10-tiny-tp1"


def test_a_profile_of_another_model_is_refused_before_anything_runs(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    model = MODELS["llama3-8b"]
    measured = replace(datasheet_profile(DEVICES["h800"], model, 1), model=asdict(model), device="cpu")
    measured.save(path)
    arguments = ["validate", *LOAD, *LENGTHS, "--model", str(tiny_model.directory), "--profile", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, LibraError)
    assert "was measured for another model: llama3-8b, not llama (num_layers 32, not 3)" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--device", "cuda"), "--device cuda: "),
        (("--policy", "fastlibre"), "did you mean 'fastlibra'"),
        (("--profile", "none.json"), "none.json"),
    ],
)
def test_what_cannot_be_validated_is_one_line(arguments: tuple[str, ...], fault: str) -> None:
    result = CliRunner().invoke(app, ["validate", *LOAD, *arguments])
    assert isinstance(result.exception, LibraError)
    assert fault in str(result.exception)


@pytest.mark.parametrize(
    ("metric", "real", "simulated", "relative", "meets"),
    [
        ("mean_ttft_ms", 100.0, 107.0, 0.07, True),
        ("mean_ttft_ms", 100.0, 91.0, -0.09, False),
        ("p95_tpot_ms", 100.0, 114.0, 0.14, True),
        ("p99_tpot_ms", 100.0, 200.0, 1.0, None),
        ("adapter_hits", 5, 5, 0.0, True),
        ("adapter_hits", 500, 501, 0.002, False),
        ("kv_hit_tokens", 0, 0, 0.0, True),
        ("kv_hit_tokens", 0, 3, None, False),
        ("mean_ttft_ms", None, 3.0, None, None),
    ],
)
def test_errors_are_simulated_less_real_and_judged_by_their_goal(
    metric: str, real: float | None, simulated: float, relative: float | None, meets: bool | None
) -> None:
    one = Deviation("fastlibra", metric, real, simulated)
    assert one.relative == (None if relative is None else pytest.approx(relative))
    assert one.meets_goal is meets
