"""The command as a user runs it: what it prints, what it writes, what it refuses and how."""

import itertools
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import main
from libra.engine.engine import Engine
from libra.errors import LibraError
from libra.request import Request, Segment
from workloads.demand import Demand
from workloads.registry import WORKLOADS
from workloads.trace import Trace, write_trace

SHORT = ("--workload", "chatbot", "--duration", "20", "--num-loras", "6", "--disable-tqdm")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `libra bench` with these arguments."""
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", *arguments])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


def test_a_run_ends_on_one_json_line_and_leaves_its_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, stdout, _ = run(capsys, *SHORT, "--policy", "fastlibra,vllm", "--repeats", "2", "--out", str(out))
    assert code == 0
    summary = json.loads(stdout.splitlines()[-1])
    assert set(summary["policies"]) == {"fastlibra", "vllm"}
    assert summary["policies"]["fastlibra"]["seeds"] == 2
    assert "simulated on h800" in stdout
    expected = {
        "rows.csv",
        "summary.csv",
        "adapters.csv",
        "summary.json",
        "timeline.parquet",
        "meta.json",
        "report.html",
    }
    assert {path.name for path in out.iterdir()} == expected
    meta = json.loads((out / "meta.json").read_text())
    assert set(meta["trace_sha256"]) == {"0", "1"}


def test_equal_runs_write_equal_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(capsys, *SHORT, "--policy", "fastlibra", "--cache-fraction", "0.4", "--out", str(tmp_path / name))
    assert (tmp_path / "a" / "rows.csv").read_bytes() == (tmp_path / "b" / "rows.csv").read_bytes()


def test_a_trace_runs_as_the_workload_it_was_made_from(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, WORKLOADS["chatbot"].generate(Demand(num_adapters=6, duration_s=20.0)))
    _, from_trace, _ = run(capsys, "--trace", str(trace), "--policy", "lru", "--disable-tqdm")
    _, from_workload, _ = run(capsys, *SHORT, "--policy", "lru")
    figures = [json.loads(text.splitlines()[-1])["policies"]["lru"] for text in (from_trace, from_workload)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "name either --workload"),
        (("--workload", "chatbt"), "did you mean 'chatbot'?"),
        ((*SHORT, "--policy", "fastlibr"), "did you mean 'fastlibra'?"),
        ((*SHORT, "--model", "llama3-8"), "did you mean 'llama3-8b'?"),
        ((*SHORT, "--device", "sim:h80"), "did you mean 'h800'?"),
        ((*SHORT, "--device", "gpu"), "unknown device 'gpu'"),
        ((*SHORT, "--polcy", "lru"), "no such option --polcy; did you mean --policy?"),
        ((*SHORT, "--rate", "5"), "no such option --rate; did you mean --request-rate?"),
        ((*SHORT, "--cache", "5"), "did you mean --hbm-cache-gib or --cache-fraction or --host-cache-gib?"),
        ((*SHORT, "--qqq", "5"), "no such option --qqq; `libra bench --help` lists all"),
        ((*SHORT, "--num-loras", "0"), "at least 1 adapter"),
        ((*SHORT, "--hbm-cache-gib", "1", "--cache-fraction", "1"), "give one of them"),
        ((*SHORT, "--hbm-cache-gib", "nan"), "must be above 0"),
        ((*SHORT, "--link-gbps", "1e-30"), "--link-gbps must be at least 0.001"),
        ((*SHORT, "--hbm-cache-gib", "0.01"), "the largest adapter takes 27 blocks"),
        ((*SHORT, "--policy", "vllm", "--hbm-cache-gib", "0.3"), "a share of"),
        ((*SHORT, "--policy", "lru,lru"), "names a policy twice"),
        ((*SHORT, "--baseline", "slora", "--policy", "lru"), "unknown baseline 'slora'"),
        ((*SHORT, "--goodput", "tfft:5"), "did you mean 'ttft'?"),
        ((*SHORT, "--block-size", "0"), "Invalid value for '--block-size'"),
        ((*SHORT, "--dtype", "float16"), "--dtype means nothing on --device sim:h800"),
        ((*SHORT, "--enforce-eager"), "--enforce-eager means nothing on --device sim:h800"),
        (("--trace", "x.jsonl", "--arrivals", "gamma:2"), "--arrivals and --burstiness are for --workload"),
        ((*SHORT, "--out", "/dev/null/x"), "is a file; name a directory"),
        (("--trace", "no-such-file.jsonl"), "cannot read no-such-file.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stdout, stderr = run(capsys, *arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert expected in stderr
    assert stderr.count("\n") == 1


def test_a_cache_in_which_no_request_fits_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = WORKLOADS["chatbot"].generate(Demand(num_adapters=1, duration_s=5.0))
    long = Request(0, 0.0, "lora-00", 10, (Segment("endless", 0, 50_000),))
    write_trace(tmp_path / "long.jsonl", Trace(trace.header, (long,)))
    code, _, stderr = run(capsys, "--trace", str(tmp_path / "long.jsonl"), "--hbm-cache-gib", "1", "--policy", "lru")
    assert code == 2
    assert "none of the trace's requests fits" in stderr


def test_a_request_longer_than_the_pool_is_counted_as_rejected(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = WORKLOADS["chatbot"].generate(Demand(num_adapters=1, duration_s=5.0))
    long = Request(10**6, trace.requests[-1].arrival_s, "lora-00", 10, (Segment("endless", 0, 50_000),))
    write_trace(tmp_path / "mixed.jsonl", Trace(trace.header, (*trace.requests, long)))
    _, stdout, _ = run(capsys, "--trace", str(tmp_path / "mixed.jsonl"), "--hbm-cache-gib", "1", "--policy", "lru")
    figures = json.loads(stdout.splitlines()[-1])["policies"]["lru"]
    assert figures["rejected"] == 1
    assert figures["completed"] == len(trace.requests)


def test_an_interrupted_run_keeps_its_rows_and_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = Engine.step, itertools.count()

    def interrupted_step(engine: Engine, next_arrival_s: float = math.inf) -> bool:
        if next(calls) == 700:
            raise KeyboardInterrupt
        return step(engine, next_arrival_s)

    monkeypatch.setattr(Engine, "step", interrupted_step)
    out = tmp_path / "run"
    code, stdout, _ = run(capsys, *SHORT, "--policy", "fastlibra,lru,vllm", "--out", str(out))
    assert code == 130
    assert json.loads(stdout.splitlines()[-1])["partial"] is True
    assert json.loads((out / "meta.json").read_text())["partial"] is True
    assert len((out / "rows.csv").read_text().splitlines()) > 10


def test_the_figures_are_printed_where_the_files_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)  # which comes too late to lose anything
        raise LibraError("--out: cannot write results there (No space left on device)")

    monkeypatch.setattr("bench.output.write_run", fail)
    code, stdout, stderr = run(capsys, *SHORT, "--policy", "lru", "--out", str(tmp_path))
    assert code == 2
    assert stderr.splitlines()[-1].endswith("(No space left on device)")
    assert json.loads(stdout.splitlines()[-1])["policies"].keys() == {"lru"}


def test_a_simulated_run_never_imports_torch() -> None:
    code = f"import sys; from bench.cli import main\ntry: main(['bench', *{SHORT!r}, '--policy', 'lru'])\n"
    code += "except SystemExit: pass\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_one_line_and_exit_code_2() -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run([sys.executable, "-m", "bench.cli", "policies"], stdout=full, stderr=subprocess.PIPE)
    assert run.returncode == 2
    assert run.stderr.startswith(b"error: cannot write to stdout (No space left on device)")
    assert run.stderr.count(b"\n") == 1


def test_policies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in ((["policies"], "order-only"), (["policies", "fastlibra"], "CostModel")):
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert not exit_info.value.code
        assert expected in capsys.readouterr().out
