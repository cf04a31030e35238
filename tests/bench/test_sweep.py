"""Sweeps: what a file may say, cells that are written once, a killed sweep that goes on, and the table."""

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.cli import main
from bench.run import Ground
from bench.settings import BenchSettings
from bench.statistics import Estimate, estimate
from bench.sweep import plan_cells
from bench.sweep_file import read_sweep
from bench.sweep_table import Pivot, pivot, pivot_table
from libra.errors import LibraError

SWEEP = """\
description = "small"
workload = "chatbot"
duration = 4
num_loras = 4
hbm_cache_gib = 1.0

[grid]
request_rate = [3, 6]
policy = ["fastlibra", "vllm"]
seed = [0, 1]
"""


def written(folder: Path, text: str = SWEEP, name: str = "study.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        main(["sweep", *map(str, arguments), "--disable-tqdm"])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


# ---- the file ------------------------------------------------------------------------------------------------------


def test_a_cell_is_what_the_flags_say(tmp_path: Path) -> None:
    cells = plan_cells(read_sweep(written(tmp_path)))
    assert len(cells) == len({cell.key for cell in cells}) == 8
    assert [cell.values for cell in cells[:3]] == [
        {"request_rate": "3", "policy": "fastlibra", "seed": "0"},
        {"request_rate": "3", "policy": "fastlibra", "seed": "1"},
        {"request_rate": "3", "policy": "vllm", "seed": "0"},
    ]
    last = cells[-1].settings
    assert (last.policies, last.request_rate, last.seeds, last.duration_s) == (("vllm",), 6.0, range(1, 2), 4.0)


def test_a_scenario_gives_what_the_file_leaves_open(tmp_path: Path) -> None:
    path = written(
        tmp_path, 'scenario = "agents-20"\nduration = 60\n[grid]\npolicy = ["lru"]\ncache_fraction = [0.5]\n'
    )
    (cell,) = plan_cells(read_sweep(path))
    assert (cell.settings.workload, cell.settings.num_loras, cell.settings.duration_s) == ("agents", 20, 60.0)
    assert (cell.settings.repeats, cell.settings.cache_fraction) == (1, 0.5)


def test_a_changed_trace_file_is_another_cell(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    path = written(tmp_path, f'trace = "{trace}"\n[grid]\npolicy = ["lru"]\n')
    keys = set()
    for text in ("one", "two"):
        trace.write_text(text)
        keys |= {cell.key for cell in plan_cells(read_sweep(path))}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[grid]", "[gird]", "has no [grid]"),
        ("num_loras", "num_lora", "did you mean 'num_loras'?"),
        ("duration = 4", "repeats = 3", "unknown key 'repeats'"),
        ("seed = [0, 1]", "seed = 3", "seed: in [grid] this must be a list"),
        ("seed = [0, 1]", "seed = [1, 1]", "seed: names a value twice"),
        ("seed = [0, 1]", "seed = [0]\nduration = [1]", "duration: is fixed and in [grid]"),
        ("[3, 6]", '["x"]', "request_rate"),
        ("[3, 6]", "[0]", "--request-rate must be above 0"),
        ('"vllm"]', '"vlm"]', "did you mean 'vllm'?"),
        ('"vllm"]', '"vllm,lru"]', "list the policies in [grid]"),
        ("description", "description = ", "is not TOML"),
    ],
)
def test_a_faulty_file_is_one_line_before_anything_runs(
    old: str, new: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, SWEEP.replace(old, new))
    code, stdout, stderr = run(capsys, path, "--out", tmp_path / "out")
    assert (code, stdout) == (2, "")
    assert expected in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_a_sweep_killed_half_way_goes_on_to_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, stdout, _ = run(capsys, path, "--out", whole)
    assert code == 0
    assert json.loads(stdout.splitlines()[-1])["done"] == 8
    command = [sys.executable, "-m", "bench.cli", "sweep", str(path), "--out", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 60
    while len(list(killed.glob("cells/[!.]*.json"))) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {cell.name: cell.read_bytes() for cell in killed.glob("cells/[!.]*.json")}
    assert 2 <= len(done) < 8
    assert json.loads((killed / "meta.json").read_text())["partial"] is True
    assert run(capsys, path, "--out", killed)[0] == 0
    assert (killed / "sweep.csv").read_bytes() == (whole / "sweep.csv").read_bytes()
    assert json.loads((killed / "meta.json").read_text())["partial"] is False
    assert all((killed / "cells" / name).read_bytes() == content for name, content in done.items())


def test_an_interrupted_sweep_keeps_its_cells_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import sweep

    run_cell, calls = sweep.run_cell, iter(range(99))

    def interrupted(cell: sweep.Cell) -> dict[str, object]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return run_cell(cell)

    monkeypatch.setattr(sweep, "run_cell", interrupted)
    code, stdout, _ = run(capsys, written(tmp_path), "--out", tmp_path / "out")
    assert code == 130
    assert json.loads(stdout.splitlines()[-1])["done"] == 1
    assert len((tmp_path / "out" / "sweep.csv").read_text().splitlines()) == 2


def test_what_cannot_run_is_a_row_that_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'workload = "chatbot"\nduration = 5\nnum_loras = 2\n[grid]\npolicy = ["lru"]\nhbm_cache_gib = [0.01, 1]\n'
    code, stdout, _ = run(capsys, written(tmp_path, text), "--out", tmp_path / "out")
    assert code == 0
    assert json.loads(stdout.splitlines()[-1])["faults"] == 1
    assert "the largest adapter takes 27 blocks" in (tmp_path / "out" / "sweep.csv").read_text()
    assert "x cannot run" in stdout


def test_local_cores_write_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("joblib", reason="joblib is not installed")
    path = written(tmp_path, SWEEP.replace("[3, 6]", "[3]"))
    for jobs in (1, 2):
        assert run(capsys, path, "--out", tmp_path / str(jobs), "--jobs", jobs)[0] == 0
    assert (tmp_path / "1" / "sweep.csv").read_bytes() == (tmp_path / "2" / "sweep.csv").read_bytes()


def test_cells_that_differ_in_policy_alone_share_one_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def of(settings: BenchSettings) -> Ground:
        made.append(settings.seed)
        return made_by(settings)

    made_by = Ground.of
    monkeypatch.setattr(Ground, "of", of)
    sweep = written(tmp_path, SWEEP.replace("[3, 6]", "[3]"))
    assert run(capsys, sweep, "--out", tmp_path / "out")[0] == 0
    assert sorted(made) == [0, 1]  # four cells: two policies of two seeds, the policies not next to each other


def test_the_table_alone_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, SWEEP.replace("[3, 6]", "[3]"))
    assert "holds no cell" in run(capsys, path, "--out", tmp_path / "out", "--table")[2]
    assert run(capsys, path, "--out", tmp_path / "out")[0] == 0
    wider = written(tmp_path, name="wider.toml")
    code, stdout, _ = run(capsys, wider, "--out", tmp_path / "out", "--table", "--metric", "p95_ttft_ms")
    assert code == 0
    assert "4 of 8 cells" in stdout
    assert "TTFT p95 ms" in stdout
    code, _, stderr = run(capsys, wider, "--out", tmp_path / "out", "--table", "--metric", "p95_tfft_ms")
    assert (code, "did you mean 'p95_ttft_ms'?" in stderr) == (2, True)


# ---- the table -----------------------------------------------------------------------------------------------------


def row(policy: str, rate: str, seed: str, value: float | None, saturated: bool = False) -> dict[str, object]:
    keys = {"policy": policy, "request_rate": rate, "seed": seed}
    return {**keys, "fault": None if value is not None else "no room", "saturated": saturated, "mean_ttft_ms": value}


def test_a_pivot_averages_over_seeds_and_keeps_what_it_does_not_know_apart() -> None:
    grid = {"request_rate": ("1", "2"), "policy": ("a", "b"), "seed": ("0", "1"), "duration": ("9",)}
    rows = [row("a", "1", "0", 10.0), row("a", "1", "1", 12.0, saturated=True), row("b", "1", "0", None)]
    shown = pivot(grid, rows, "mean_ttft_ms", "policy")
    assert (shown.keys, shown.rows, shown.columns) == (("request_rate",), (("1",),), ("a", "b"))
    entry = shown.entries[("1",), "a"]
    assert entry is not None
    assert (entry[0].mean, entry[1]) == (11.0, True)
    assert shown.entries[("1",), "b"] is None
    across = pivot(grid, rows[:1], "mean_ttft_ms", "request_rate")
    assert across.entries == {(("a",), "1"): (Estimate(10.0), False)}
    with pytest.raises(LibraError, match="unknown --columns 'polcy'"):
        pivot(grid, rows, "mean_ttft_ms", "polcy")


def test_long_headings_break_between_their_words() -> None:
    keys, columns = ("cache_fraction", "request_rate"), ("fastlibra", "vllm-oracle", "clairvoyant", "order-only")
    place = ("0.4", "2")
    entries = {(place, column): (estimate([1000.0, 2200.0]), False) for column in columns}
    console = Console(width=80, file=StringIO())
    console.print(pivot_table(Pivot(keys, (place,), columns, entries), "mean_ttft_ms", "study"))
    words = console.file.getvalue().split()  # type: ignore[attr-defined]
    assert {"cache_", "fraction", "request_", "rate", "fastlibra", "vllm-", "oracle", "order-", "only"} <= set(words)
    assert words.count("±7,624") == 4
