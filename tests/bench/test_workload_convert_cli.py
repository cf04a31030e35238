"""`libra workload convert|sources` from the command line's side."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.workload_cli import workload_app
from libra.errors import LibraError
from tests.workloads.services import FOLDER, SAMPLES, sample
from workloads.trace import read_trace


def run(*arguments: object) -> tuple[str, str]:
    """What the command prints on stdout and stderr; raises what it raises."""
    result = CliRunner().invoke(workload_app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout, result.stderr


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_converts_and_inspects(tmp_path: Path, name: str) -> None:
    trace_format, path = sample(name)
    out = tmp_path / "t.jsonl"
    run("convert", path, "--format", trace_format, "--out", out)
    row = json.loads(run("inspect", out, "--format", "json")[0])
    assert row["num_requests"] == len(read_trace(out).requests)


def test_skipped_rows_and_warnings_are_on_the_screen(tmp_path: Path) -> None:
    stdout, stderr = run("convert", FOLDER / "burstgpt.csv", "--out", tmp_path / "t.jsonl")
    assert "3 requests, 2 adapters" in stdout
    assert "skipped failed without response: 1" in stderr
    _, stderr = run("convert", FOLDER / "servegen", "--format", "servegen", "--out", tmp_path / "t.jsonl")
    assert "warning: 22% of requests are of clients without a dataset file" in stderr


def test_drawing_per_request_says_what_it_costs(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    _, stderr = run("convert", FOLDER / "qwen-bailian.jsonl", "--adapter-per", "request", "--out", out)
    assert "prefix hits are" in stderr
    assert read_trace(out).header.parameters["adapter_per"] == "request"


def test_several_packed_files(tmp_path: Path) -> None:
    packed = tmp_path / "agent.jsonl.gz"
    packed.write_bytes(gzip.compress((FOLDER / "lmcache-agent.jsonl").read_bytes()))
    out = tmp_path / "t.jsonl"
    run("convert", packed, FOLDER / "lmcache-agent.jsonl", "--out", out)
    assert len(read_trace(out).requests) == 6


def test_recorded_time_stretches_and_generated_arrivals_meet_the_rate(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    run("convert", FOLDER / "burstgpt.csv", "--request-rate", 3, "--out", out)
    assert read_trace(out).request_rate == pytest.approx(3)
    run("convert", FOLDER / "servegen", "--format", "servegen", "--request-rate", 0.5, "--out", out)
    header = read_trace(out).header
    assert header.duration_s == 1800
    assert "time_scale" not in header.parameters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.csv"], "cannot read absent.csv"),
        ([FOLDER / "burstgpt.csv", "--adapters", "native"], "use --adapters mapped or drawn"),
        ([FOLDER / "burstgpt.csv", "--num-loras", "9"], "use --num-loras 2 or less"),
        ([FOLDER / "burstgpt.csv", "--max-input-gib", "0.0000001"], "raise --max-input-gib"),
        ([FOLDER / "burstgpt.csv", "--max-input-gib", "nan"], "--max-input-gib is nan"),
        ([FOLDER / "burstgpt.csv", "--burstiness", "0"], "--burstiness is 0.0"),
        ([FOLDER / "burstgpt.csv", "--burstiness", "2"], "--burstiness means nothing for this burstgpt source"),
        ([FOLDER / "burstgpt.csv", "--arrivals", "gamma:2"], "--arrivals means nothing for this burstgpt source"),
        ([FOLDER / "burstgpt.csv", "--arrivals", "poisson"], "--arrivals means nothing for this burstgpt source"),
        ([FOLDER / "burstgpt.csv", "--source-start", "500"], "is empty: the trace holds"),
        ([FOLDER.parent / "burstgpt.tests-only.jsonl"], "is a libra trace already"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LibraError) as raised:
        run("convert", *arguments, "--out", "t.jsonl")
    assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_sources_are_listed() -> None:
    stdout, _ = run("sources")
    for part in ("Mooncake", "--format burstgpt", "CC BY 4.0", "https://github.com/alibaba/ServeGen/tree/main/data"):
        assert part in stdout
    rows = json.loads(run("sources", "--format", "json")[0])
    assert {"name", "trace_format", "url", "licence", "good_for", "files", "num_bytes"} == rows[0].keys()
    assert rows[0]["num_bytes"] is None
