"""report.html as the commands write it, or say why not."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import bench.report_options
from bench.cli import main
from bench.report_options import REPORT
from tests.bench.report.pages import Parsed, save, some_runs

SHORT = ("bench", "--workload", "chatbot", "--duration", "10", "--num-loras", "4", "--policy", "lru", "--disable-tqdm")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `libra` with these arguments."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


@pytest.fixture
def without_jinja2(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        return None if name == "jinja2" else find_spec(name)

    monkeypatch.setattr(bench.report_options, "find_spec", find)


def test_bench_writes_a_report_beside_its_files_unless_told_not_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, stdout, _ = run(capsys, *SHORT, "--out", str(out))
    assert code == 0
    assert json.loads(stdout.splitlines()[-1])["best"] == "lru"
    assert "chatbot on llama3-8b, 4 adapters" in Parsed((out / REPORT).read_text()).text
    run(capsys, *SHORT, "--out", str(out), "--no-report")
    assert not (out / REPORT).exists(), "the report of the run before is not this run's"


def test_without_packages_bench_runs_and_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, without_jinja2: None
) -> None:
    code, _, stderr = run(capsys, *SHORT, "--out", str(tmp_path))
    assert code == 0
    assert "note: report.html needs jinja2; install with: pip install 'libra-lora[report]'" in stderr
    assert (tmp_path / "meta.json").is_file()
    assert not (tmp_path / REPORT).exists()
    assert "needs jinja2" not in run(capsys, *SHORT, "--out", str(tmp_path), "--no-report")[2]


def test_a_report_that_was_asked_for_and_cannot_be_is_refused_before_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, without_jinja2: None
) -> None:
    code, _, stderr = run(capsys, *SHORT, "--out", str(tmp_path), "--report")
    assert (code, stderr.splitlines()) == (
        2,
        ["error: report.html needs jinja2; install with: pip install 'libra-lora[report]'"],
    )
    assert not any(tmp_path.iterdir())
    assert run(capsys, "report", str(tmp_path))[0] == 2


def test_a_report_without_a_place_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, stderr = run(capsys, *SHORT, "--report")
    assert code == 2
    assert "--report needs --out" in stderr


def test_report_renders_saved_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        save(tmp_path / name, some_runs(1, seeds=(seed,), num_requests=20))
    code, stdout, _ = run(capsys, "report", "a")
    assert code == 0
    line = json.loads(stdout)
    assert line == {"schema_version": 1, "report": "a/report.html", "bytes": line["bytes"], "directories": 1}
    assert (tmp_path / "a" / REPORT).stat().st_size == line["bytes"]
    assert json.loads(run(capsys, "report", "a", "b")[1])["report"] == REPORT
    assert json.loads(run(capsys, "report", "a", "b", "--out", "two.html")[1])["report"] == "two.html"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", REPORT, "two.html"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere",), "is no run of libra"),
        (("a", "--out", "no/such/folder.html"), "cannot write no/such/folder.html"),
        ((), "Missing argument 'DIR'"),
    ],
)
def test_what_cannot_be_rendered_is_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a", some_runs(1, seeds=(0,)))
    code, _, stderr = run(capsys, "report", *arguments)
    assert code == 2
    assert expected in stderr
    assert len(stderr.splitlines()) == 1
