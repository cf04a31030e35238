"""The run directory: what is in it, that it reads back, and that failures leave nothing half-written."""

import errno
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bench.output
from bench.documents import RunInfo, to_json
from bench.machine import package_versions, source_revision
from bench.metrics import summarise
from bench.output import FILES, META, ROWS, SUMMARY_JSON, TIMELINE, prepare_output, write_run
from bench.rows import FIELDS, write_rows
from bench.saved_run import load_run
from libra.engine.record import RunResult
from libra.errors import LibraError
from tests.bench.fabricate import CONDITIONS, POLICIES, plausible_run, record, result

INFO = RunInfo(
    command="libra bench --workload chatbot",
    conditions=CONDITIONS,
    settings={"request_rate": math.inf, "policy": ("fastlibra", "vllm")},
    trace_sha256={0: "aa", 1: "bb"},
    profile={"r2": 0.99},
)


def runs(num_requests: int = 40) -> list[RunResult]:
    """Two policies, two seeds."""
    return [plausible_run(style, seed, num_requests) for style in POLICIES[:2] for seed in (0, 1)]


def save(path: Path, results: list[RunResult], partial: bool = False) -> None:
    policies = dict.fromkeys(item.policy for item in results)
    summaries = [summarise([item for item in results if item.policy == policy]) for policy in policies]
    write_run(path, results, summaries, INFO, partial=partial)


def test_run_directory_holds_all_files_and_reads_back(tmp_path: Path) -> None:
    results = runs()
    save(tmp_path / "deep" / "run", results)
    run = load_run(tmp_path / "deep" / "run")
    assert {entry.name for entry in run.path.iterdir()} == set(FILES)
    assert run.policies == ["fastlibra", "vllm"]
    assert run.trace_sha256 == {0: "aa", 1: "bb"}
    assert len(run.rows) == 160
    first = results[0].records[0]
    assert run.rows["adapter"][0] == first.adapter
    assert first.first_token_s is not None
    assert run.rows["ttft_ms"][0] == pytest.approx(1000 * (first.first_token_s - first.arrival_s), abs=1e-3)
    assert run.timeline().groupby(["policy", "seed"]).size().tolist() == [20] * 4


def test_meta_says_where_the_results_come_from(tmp_path: Path) -> None:
    save(tmp_path, runs())
    meta = json.loads((tmp_path / META).read_text())
    assert meta["command"] == INFO.command
    assert meta["schema_version"] == 1
    assert meta["complete"] is True
    assert meta["partial"] is False
    assert meta["settings"] == {"request_rate": None, "policy": ["fastlibra", "vllm"]}
    assert meta["profile"] == {"r2": 0.99}
    assert meta["conditions"]["cache_fraction"] == pytest.approx(20 / 48)
    assert set(meta["source"]) == {"commit", "dirty"}
    assert meta["versions"]["numpy"]
    assert meta["machine"]["cores"] >= 1


def test_summary_has_vllm_keys_intervals_and_adapters(tmp_path: Path) -> None:
    save(tmp_path, runs())
    policy = json.loads((tmp_path / SUMMARY_JSON).read_text())["policies"]["fastlibra"]
    low, high = policy["intervals"]["mean_ttft_ms"]
    assert low < policy["mean_ttft_ms"] < high
    assert policy["per_seed"]["1"]["completed"] == 40
    assert policy["per_adapter"]["a00"]["mean_ttft_ms"] > 0
    header, *lines = (tmp_path / "summary.csv").read_text().splitlines()
    assert len(lines) == 2
    assert "mean_ttft_ms_ci_low" in header
    assert (tmp_path / "adapters.csv").read_text().startswith("policy,adapter,num_prompts")


def test_rows_of_one_seed_are_byte_identical_in_two_processes(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from bench.rows import write_rows;"
        "from tests.bench.fabricate import POLICIES, plausible_run;"
        "write_rows(Path(sys.argv[1]), [plausible_run(POLICIES[0], 3, 30)])"
    )
    for seed, name in (("1", "one.csv"), ("2", "two.csv")):
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)})
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_row_of_a_request_worked_by_hand(tmp_path: Path) -> None:
    waiting = record(id=7, adapter=None, status="unfinished", first_token_s=None, finish_s=None, admitted_s=None)
    write_rows(tmp_path / ROWS, [result([record(first_token_s=0.1 + 1e-9), waiting])])
    header, first, second = (tmp_path / ROWS).read_text().splitlines()
    assert header.split(",") == list(FIELDS)
    served = "fastlibra,0,0,a0,s0,finished,,0.0,0.04,0.1,0.12,100,3,100.0,40.0,0.0,0.0,0.0,60.0,10.0,120.0,hbm,0,0,0"
    assert first == served
    assert second == "fastlibra,0,7,,s0,unfinished,,0.0,,,,100,3,,,,,,,,,hbm,0,0,0"


def test_names_that_look_like_missing_values_survive(tmp_path: Path) -> None:
    save(tmp_path, [result([record(adapter="NA", session="null"), record(id=1, adapter=None, session=None)])])
    rows = load_run(tmp_path).rows
    assert rows["adapter"].tolist() == ["NA", ""]
    assert rows["session"].tolist() == ["null", ""]


def test_partial_run_keeps_its_rows_and_says_so(tmp_path: Path) -> None:
    results = runs()
    results[-1].complete = False
    save(tmp_path, results)
    run = load_run(tmp_path)
    assert run.meta["partial"] is True
    assert run.meta["complete"] is False
    assert [item["complete"] for item in run.meta["runs"]] == [True, True, True, False]
    assert len(run.rows) == 160
    assert run.summary["policies"]["vllm"]["complete"] is False


def test_run_interrupted_between_policies_is_partial_too(tmp_path: Path) -> None:
    save(tmp_path, runs()[:2], partial=True)
    assert load_run(tmp_path).meta["partial"] is True


def test_run_interrupted_before_its_first_result_is_written(tmp_path: Path) -> None:
    save(tmp_path, [], partial=True)
    assert load_run(tmp_path).rows.empty


def test_earlier_run_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    save(tmp_path, runs())
    (tmp_path / "notes.txt").write_text("mine")
    prepare_output(tmp_path)
    save(tmp_path, runs()[:1])
    assert len(load_run(tmp_path).rows) == 40
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_prepare_creates_nothing(tmp_path: Path) -> None:
    prepare_output(tmp_path / "new" / "run")
    prepare_output(tmp_path)
    assert not any(tmp_path.iterdir())


def test_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(LibraError, match="holds files but no libra run"):
        prepare_output(tmp_path)
    (tmp_path / META).write_text('{"schema": "other"}')
    with pytest.raises(LibraError, match="holds files but no libra run"):
        prepare_output(tmp_path)


@pytest.mark.parametrize("inside", ["", "run"])
def test_file_in_the_way_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LibraError, match="is a file; name a directory"):
        prepare_output(tmp_path / "file" / inside)


def test_unwritable_directory_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By hand, for root may write anywhere.
    def refuse(**_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(LibraError, match="Permission denied") as error:
        prepare_output(tmp_path / "run")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("step", ["write_rows", "_write_timeline", "meta_document"])
def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    save(old, runs()[:1])
    before = {entry.name: entry.read_bytes() for entry in old.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bench.output, step, full)
    for path in (old, new):
        with pytest.raises(LibraError, match="No space left on device"):
            save(path, runs())
    assert {entry.name: entry.read_bytes() for entry in old.iterdir()} == before
    assert not new.exists()


def test_interrupt_while_writing_leaves_the_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, runs()[:1])

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.output, "_write_timeline", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, runs())
    assert {entry.name for entry in tmp_path.iterdir()} == set(FILES)
    assert len(load_run(tmp_path).rows) == 40


def test_leftovers_of_a_killed_run_do_not_block_the_directory(tmp_path: Path) -> None:
    (tmp_path / ".writing-abc").mkdir()
    prepare_output(tmp_path)
    save(tmp_path, runs()[:1])
    assert len(load_run(tmp_path).rows) == 40


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (META, '{"schema": "libra-run", "schema_version": 2}', "schema version 2, but this libra reads 1"),
        (META, '{"schema": "other"}', "schema is 'other'"),
        (META, "{", "cannot be read as JSON"),
        (META, "[]", "not an object"),
        (ROWS, "policy\n", "was changed after the run"),
        (SUMMARY_JSON, "", "cannot be read as JSON"),
    ],
)
def test_damaged_run_is_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    save(tmp_path, runs()[:1])
    (tmp_path / name).write_text(text)
    with pytest.raises(LibraError, match=message) as error:
        load_run(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [META, ROWS])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path, runs()[:1])
    (tmp_path / name).unlink()
    with pytest.raises(LibraError, match=f"{name} is missing"):
        load_run(tmp_path)


def test_damaged_timeline_is_refused(tmp_path: Path) -> None:
    save(tmp_path, runs()[:1])
    run = load_run(tmp_path)
    (tmp_path / TIMELINE).write_bytes(b"PAR1")
    with pytest.raises(LibraError, match="cannot be read"):
        run.timeline()


def test_json_has_no_nan_and_knows_numpy() -> None:
    import numpy as np

    value = {"a": math.nan, "b": [math.inf, np.float64(1.5), np.int64(2)], "c": Path("x"), "d": (True, None)}
    assert json.loads(to_json(value)) == {"a": None, "b": [None, 1.5, 2], "c": "x", "d": [True, None]}


def test_versions_do_not_load_torch() -> None:
    loaded = set(sys.modules)
    versions = package_versions()
    assert set(sys.modules) - loaded == set()
    assert ("torch" in versions) == ("torch" in loaded)
    assert set(source_revision()) == {"commit", "dirty"}
