"""What `libra workload inspect` prints, compares and plots."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from bench import workload_plots
from bench.workload_cli import workload_app
from bench.workload_comparison import comparison_table
from bench.workload_table import inspection_table
from libra.errors import LibraError
from libra.spec import MODELS
from tests.workloads.builders import row, write_rows
from workloads.comparison import compare_inspections
from workloads.demand import Demand
from workloads.inspection import Inspection, inspect_trace
from workloads.registry import WORKLOADS
from workloads.trace import read_trace, write_trace

PLOTS = ["arrivals.png", "popularity.png", "lengths.png", "turns.png", "memory.png"]


def run(*arguments: object) -> str:
    """What the command prints on stdout; raises what it raises."""
    result = CliRunner().invoke(workload_app, ["inspect", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def made(folder: Path, name: str, **demand: Any) -> Path:
    path = folder / f"{name}.jsonl"
    write_trace(path, WORKLOADS[name].generate(Demand(**{"num_adapters": 5, "duration_s": 120, **demand})))
    return path


def inspected(path: Path) -> Inspection:
    return inspect_trace(read_trace(path), MODELS["llama3-8b"], (32, 64), 32)


def shown(renderable: RenderableType) -> list[str]:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text().splitlines()


def test_one_screen_of_eighty_columns_even_for_large_figures(tmp_path: Path) -> None:
    lines = shown(inspection_table(inspected(made(tmp_path, "chatbot", num_adapters=200, request_rate=120.0))))
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    text = " ".join(lines)
    for figure in ("new tokens a turn", "in flight", "peak", "least squares", "paper: 48.1 %, 73.9 %", "all together"):
        assert figure in text


def test_json_has_every_figure_and_null_for_those_that_are_missing(tmp_path: Path) -> None:
    found = json.loads(run(write_rows(tmp_path / "t.jsonl", row(0)), "--format", "json"))
    assert found["num_requests"] == 1
    assert (found["gap_cv"], found["popularity_slope"]) == (None, None)
    assert found["new_tokens"]["mean"] == found["prompt_tokens"]["mean"] == 72
    assert found["memory_change_per_adapter"]["count"] == found["memory_change_together"]["count"] > 0
    assert found["mean_in_flight"] == pytest.approx(0.062)
    assert found["mean_adapters_in_flight"] == pytest.approx(0.1)


def test_compare_puts_two_traces_side_by_side(tmp_path: Path) -> None:
    chatbot, agents = made(tmp_path, "chatbot"), made(tmp_path, "agents")
    lines = shown(comparison_table(compare_inspections(inspected(chatbot), inspected(agents))))
    assert max(map(len, lines)) <= 80
    header = next(line for line in lines if "KS" in line)
    assert header.split() == ["chatbot", "agents", "KS"]
    distances = [line.split()[-1] for line in lines if line.startswith(("turns", "prompt tokens", "output tokens"))]
    assert len(distances) == 3
    assert all(0 < float(distance) <= 1 for distance in distances)
    assert "KS" in run(chatbot, "--compare", agents)
    found = json.loads(run("--compare", chatbot, agents, "--format", "json"))
    assert (found["left"]["name"], found["right"]["name"]) == ("agents", "chatbot")
    assert set(found["ks"]) == {
        *("gaps", "gap_shapes", "turns", "prompt_tokens", "new_tokens", "output_tokens", "popularity")
    }


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    found = inspected(made(tmp_path, "chatbot"))
    assert "chatbot (A)" in " ".join(shown(comparison_table(compare_inspections(found, found))))


def test_plots_of_a_single_request_to_the_base_model(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = inspected(write_rows(tmp_path / "t.jsonl", row(0, adapter=None)))
    assert len(workload_plots.save_plots(found, tmp_path / "plots")) == len(PLOTS)


def test_plots_are_pictures_that_show_the_trace(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    pytest.importorskip("matplotlib")
    folder = tmp_path / "deep" / "plots"
    run(made(tmp_path, "chatbot"), "--plot", folder, "--format", "json")
    assert sorted(path.name for path in folder.iterdir()) == sorted(PLOTS)
    pictures = [image.imread(folder / name) for name in PLOTS]
    assert {picture.shape for picture in pictures} == {(630, 1200, 4)}
    for picture in pictures:
        assert 0.02 < np.mean(picture[..., :3].min(axis=2) < 0.9) < 0.8


def test_plots_need_matplotlib_and_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = made(tmp_path, "chatbot")
    pytest.importorskip("matplotlib")
    with pytest.raises(LibraError, match="cannot write plots to"):
        run(trace, "--plot", trace / "plots")
    monkeypatch.setattr(workload_plots, "find_spec", lambda name: None)
    with pytest.raises(LibraError, match=r"pip install 'libra-lora\[plot\]'"):
        run(trace, "--plot", tmp_path / "plots")
