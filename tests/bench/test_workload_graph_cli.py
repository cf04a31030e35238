"""`libra workload graph` from the command line's side."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench.graph_table import graph_table
from bench.workload_cli import workload_app
from libra.errors import LibraError
from tests.workloads.graphs.rows import DEEP, WIDE, row, traces, write_rows
from workloads.graphs.model_file import read_model
from workloads.graphs.shapes import closeness
from workloads.trace import read_trace


def run(*arguments: object) -> str:
    """What the command prints on stdout; raises what it raises."""
    result = CliRunner().invoke(workload_app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "calls.csv", [*traces([WIDE, DEEP], 60, seed=0), row("", "A", "B")])


def test_graph_learns_a_model_that_make_takes(tmp_path: Path, calls: Path) -> None:
    model, trace = tmp_path / "model.json", tmp_path / "trace.jsonl"
    shown = run("graph", calls, "--out", model, "--num-graphs", 300)
    for part in ("120 call graphs, 12 roots", "levels of a graph", "KS", "rows without trace or rpcid 1"):
        assert part in shown
    run("make", f"agent-graph:{model}", "--duration", 60, "--out", trace)
    made = read_trace(trace)
    assert len(made.header.adapters) == len(read_model(model).services)
    assert made.header.parameters["graph_model"] == "calls.csv"


def test_equal_seeds_write_equal_files_and_a_model_generates_without_its_source(tmp_path: Path, calls: Path) -> None:
    model = tmp_path / "model.json"
    first, second, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    run("graph", calls, "--out", model, "--graphs", first, "--num-graphs", 50)
    run("graph", model, "--graphs", second, "--num-graphs", 50)
    run("graph", model, "--graphs", other, "--num-graphs", 50, "--seed", 1)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    assert len(first.read_text().splitlines()) == 50


def test_graph_as_json_of_one_cluster(calls: Path) -> None:
    whole = json.loads(run("graph", calls, "--format", "json"))
    assert whole["counts"]["rows_without_trace_or_rpcid"] == 1
    assert {feature["feature"] for feature in whole["closeness"]} >= {"depth", "width", "in_degree", "repeats"}
    part = json.loads(run("graph", calls, "--format", "json", "--cluster", 1))
    assert part["source_graphs"] == whole["clusters"]["1"]["graphs"] == 60


def test_the_table_fits_eighty_columns(tmp_path: Path, calls: Path) -> None:
    run("graph", calls, "--out", tmp_path / "model.json")
    model = read_model(tmp_path / "model.json")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(graph_table(model, closeness(model.source_shapes, model.source_shapes), 10))
    assert max(map(len, console.export_text().splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.csv"], "cannot read absent.csv"),
        (["absent.json"], "cannot read absent.json"),
        (["calls.csv", "--cluster", "9"], "unknown cluster '9'"),
        (["calls.csv", "--out", "absent/model.json"], "cannot write absent/model.json"),
        (["calls.csv", "--max-input-gib", "0.000001"], "raise --max-input-gib"),
    ],
)
def test_bad_input_is_one_line(
    calls: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(calls.parent)
    with pytest.raises(LibraError) as raised:
        run("graph", *arguments)
    assert message in str(raised.value)
    assert [path.name for path in calls.parent.iterdir()] == ["calls.csv"]
