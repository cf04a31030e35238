"""`libra workload make|convert|inspect` from the command line's side."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench.workload_cli import workload_app
from bench.workload_table import inspection_table
from libra.errors import LibraError
from libra.spec import MODELS
from tests.workloads.builders import mooncake_row, write_mooncake
from tests.workloads.texts import SAMPLES
from workloads.inspection import inspect_trace
from workloads.trace import read_trace


def run(*arguments: object) -> str:
    """What the command prints on stdout; raises what it raises."""
    result = CliRunner().invoke(workload_app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture
def chatbot(tmp_path: Path) -> Path:
    path = tmp_path / "chatbot.jsonl"
    run("make", "chatbot", "--duration", 120, "--num-loras", 5, "--seed", 3, "--out", path)
    return path


def test_make_writes_a_trace(chatbot: Path) -> None:
    trace = read_trace(chatbot)
    assert trace.header.name == "chatbot"
    assert trace.header.seed == 3
    assert list(trace.header.adapters) == [f"lora-0{number}" for number in range(5)]


def test_make_says_what_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    assert "requests, 50 adapters, 60 s at" in run("make", "translation", "--duration", 60, "--out", out)


def test_convert_recognises_the_format_and_reshapes(tmp_path: Path) -> None:
    source = write_mooncake(tmp_path / "m.jsonl", *(mooncake_row(100 * number, [number]) for number in range(40)))
    out = tmp_path / "t.jsonl"
    run(
        "convert",
        source,
        "--num-loras",
        4,
        "--request-rate",
        2,
        "--duration",
        10,
        "--max-output-tokens",
        3,
        "--out",
        out,
    )
    header = read_trace(out).header
    assert len(header.adapters) == 4
    assert header.duration_s == 10
    assert header.counts["outputs_capped"] > 0
    run("convert", source, "--format", "mooncake", "--out", out)
    assert len(read_trace(out).requests) == 40


def test_convert_texts_as_asked(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    asked = ("--format", "taskmaster", "--bytes-per-token", 2, "--system-tokens", 7, "--think-time", 30)
    run("convert", SAMPLES / "taskmaster.json", *asked, "--request-rate", 0.002, "--arrivals", "gamma:2", "--out", out)
    trace = read_trace(out)
    parameters = trace.header.parameters
    assert trace.requests[0].prompt[0].length == 7
    assert (parameters["bytes_per_token"], parameters["system_tokens"]) == (2.0, 7)
    assert parameters["think_s"]["mean"] == 30.0
    assert trace.request_rate == pytest.approx(0.002)
    assert "time_scale" not in parameters


def test_inspect_fits_eighty_columns(chatbot: Path) -> None:
    trace = read_trace(chatbot)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(inspection_table(inspect_trace(trace, MODELS["llama3-8b"], (32, 64), 32)))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    text = " ".join(lines)
    for word in ("rate", "dispersion", "popularity", "prefix hits", "working set", "p99", "adapters drawn"):
        assert word in text


def test_inspect_as_json(chatbot: Path) -> None:
    row = json.loads(run("inspect", chatbot, "--format", "json", "--model", "llama2-7b", "--ranks", "8"))
    assert row["model"] == "llama2-7b"
    assert row["adapter_source"] == "drawn"
    assert 0 < row["prefix_hit_rate"] < 1
    assert row["working_set_gib"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "chatbo", "--out", "x"], "unknown workload 'chatbo': did you mean 'chatbot'?"),
        (["make", "chatbot", "--num-loras", "0", "--out", "x"], "--num-loras is 0"),
        (["inspect", "absent.jsonl"], "cannot read absent.jsonl"),
        (["inspect", "absent.jsonl", "--model", "llama3-8"], "unknown model preset"),
        (["convert", "absent.jsonl", "--format", "moonsteak", "--out", "x"], "unknown trace format"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LibraError) as raised:
        run(*arguments)
    assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []
