"""The command as a user runs it, against the stub: exit codes, files, comparison, Ctrl-C."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.cli import main
from bench.replay.outcome import ReplayOutcome, conclude
from libra.errors import LibraError
from libra.request import Request, Segment
from tests.bench.replay.conftest import Start
from tests.bench.replay.stub_server import Behaviour
from workloads.header import Provenance, TraceHeader
from workloads.trace import Trace, write_trace

LOAD = ("--workload", "chatbot", "--num-loras", "4", "--duration", "1", "--request-rate", "20")
# The machine that runs tests is busy: how late the sender is says nothing here.
EASY = ("--max-output-tokens", "5", "--max-send-lag", "5000", "--disable-tqdm")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


def test_two_servers_are_replayed_and_compared(
    start_stub: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setattr(sys, "argv", ["libra", "replay", "--api-key", "secret-key"])
    libra, other = Behaviour(server="libra", cached_tokens=2), Behaviour(server="vllm", ttft_s=0.5)
    stubs = [start_stub(libra), start_stub(other)]
    outputs = []
    for stub, extra in zip(stubs, (("--workers", "2", "--scrape", "--scrape-interval", "0.3"), ()), strict=True):
        out = str(tmp_path / stub.behaviour.server)
        code, stdout, _ = run(
            capsys, "replay", "--url", stub.url, *LOAD, *EASY, "--vocab-size", "500", *extra, "--out", out,
            "--goodput", "ttft:5000",
        )  # fmt: skip
        assert code == 0, stdout
        outputs.append(stdout)
    assert "============ Serving Benchmark Result ============" in outputs[0]
    assert "Result is : VALID" in outputs[0]
    line = json.loads(outputs[0].splitlines()[-1])
    assert line["valid"]
    assert line["policies"]["fastlibra"]["cold_request_ratio"] == 1.0  # every request waited 4 ms for its adapter
    assert json.loads(outputs[1].splitlines()[-1])["policies"]["vllm"]["cold_request_ratio"] is None
    assert stubs[1].bodies[-1]["include_metrics"] is True
    _check_files(tmp_path / "libra")
    assert stubs[0].headers[-1]["Authorization"] == "Bearer secret-key"
    assert not any("secret-key" in path.read_text() for path in tmp_path.rglob("*.json"))
    code, stdout, _ = run(capsys, "compare", str(tmp_path / "libra"), str(tmp_path / "vllm"), "--format", "json")
    assert code == 0
    means = {item["metric"]: item["difference"] for item in json.loads(stdout)["comparisons"][0]["differences"]}
    assert means["mean_ttft_ms"] > 10


def _check_files(run_dir: Path) -> None:
    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        *("rows.csv", "summary.csv", "adapters.csv", "summary.json", "timeline.parquet", "meta.json"),
        *("requests.csv", "mix.csv", "report.html"),
    }
    meta = json.loads((run_dir / "meta.json").read_text())
    assert meta["runs"][0]["verdict"]["valid"] is True
    assert meta["runs"][0]["arrival_check"]["p99_send_lag_ms"] is not None
    assert meta["command"] == "libra replay --api-key HIDDEN"
    rows, requests = pd.read_csv(run_dir / "rows.csv"), pd.read_csv(run_dir / "requests.csv")
    assert len(rows) == len(requests)
    assert (rows["adapter_tier"] == "host").all()
    assert (requests["usage_completion_tokens"] == rows["output_tokens"]).all()
    timeline = pd.read_parquet(run_dir / "timeline.parquet")
    assert len(timeline) >= 3
    assert (timeline["running"] == 3.0).all()
    mix = pd.read_csv(run_dir / "mix.csv")
    assert mix["asked"].sum() == mix["finished"].sum() == len(rows)


def test_failures_make_the_exit_code(start_stub: Start, capsys: pytest.CaptureFixture[str]) -> None:
    stub = start_stub(Behaviour(script=["ok", "429", "ok", "error", "reset", "cut", "junk"]))
    code, stdout, _ = run(capsys, "replay", "--url", stub.url, *LOAD, *EASY)
    assert code == 1
    line = json.loads(stdout.splitlines()[-1])
    assert line["valid"] is False
    assert line["failures"]["http 429"] == 1
    assert {"error in stream", "cut short", "malformed"} < set(line["failures"])
    assert "requests failed" in stdout


@pytest.mark.parametrize(
    ("behaviour", "arguments", "reason"),
    [
        (Behaviour(ttft_s=0.05), ("--goodput", "ttft:1"), "0.0% of requests met ttft:1"),
        (Behaviour(short_by=2), (), "have not the length asked for"),
        (Behaviour(wrong_prompt_tokens=1), (), "usage contradicts"),
    ],
)
def test_wrong_runs_are_invalid(
    start_stub: Start,
    capsys: pytest.CaptureFixture[str],
    behaviour: Behaviour,
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    code, stdout, _ = run(capsys, "replay", "--url", start_stub(behaviour).url, *LOAD, *EASY, *arguments)
    assert code == 1
    assert reason in " ".join(stdout.split())


def test_chat_with_the_server_s_own_answers(
    start_stub: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stub, trace = start_stub(Behaviour(text=" reply")), tmp_path / "trace.jsonl"
    write_trace(trace, _two_turns(num_sessions=6))
    chat = ("--endpoint", "/v1/chat/completions", "--prompt", "text", "--answers", "server", "--no-ignore-eos")
    code, stdout, stderr = run(
        capsys, "replay", "--url", stub.url, "--trace", str(trace), *chat, "--base-share", "0.4", *EASY
    )
    assert code == 0, stderr
    second = [body["messages"] for body in stub.bodies if len(body["messages"]) == 3]
    assert len(second) == 6
    assert all(turns[1] == {"role": "assistant", "content": " reply" * 3} for turns in second)
    assert {body["model"] for body in stub.bodies} == {"stub", "lora-00"}
    assert "adapters vs base model" in " ".join(stdout.split())


def _two_turns(num_sessions: int) -> Trace:
    """Sessions of two turns, 0.7 s apart, of which the service time of the trace takes up 0.59 s."""
    requests = []
    for session in range(num_sessions):
        first = (Segment(f"s{session}.t0", 0, 6),)
        then = (*first, Segment(f"s{session}.o0", 0, 3), Segment(f"s{session}.t1", 0, 4))
        for turn, prompt in enumerate((first, then)):
            number, arrival_s = turn * num_sessions + session, 0.05 * session + 0.7 * turn
            output = f"s{session}.o{turn}"
            requests.append(Request(number, arrival_s, "lora-00", 3, prompt, output=output, session=f"s{session}"))
    requests.sort(key=lambda request: request.arrival_s)
    header = TraceHeader("chats", 0, Provenance(*["generated"] * 4), 2.0, {"lora-00": None})
    return Trace(header, tuple(requests))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workload", "chatbt"), "did you mean 'chatbot'"),
        ((*LOAD, "--model", "stubb"), "did you mean 'stub'"),
        ((*LOAD, "--num-loras", "9"), "adapter lora-04: unknown model"),
        ((*LOAD, "--goodput", "tfft:5"), "did you mean 'ttft'"),
        ((*LOAD, "--extra-body", "[1]"), "must be a JSON object"),
        ((*LOAD, "--header", "no-value"), "write NAME=VALUE"),
        ((*LOAD, "--api-key", "k", "--header", "authorization=x"), "for the same thing; leave one out"),
        ((*LOAD, "--request-rate", "-1"), "--request-rate is -1.0; it must be positive, or inf"),
        ((*LOAD, "--trace", "x"), "not both or none"),
        ((*LOAD, "--out", "/dev/null/x"), "is a file; name a directory"),
        ((*LOAD, "--endpoint", "/v1/chat/completions"), "add --prompt text"),
    ],
)
def test_mistakes_are_one_line(
    start_stub: Start, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, _, stderr = run(capsys, "replay", "--url", start_stub(Behaviour()).url, *arguments)
    assert code == 2
    assert message in stderr
    assert len(stderr.splitlines()) == 1


def test_a_header_of_one_s_own_is_not_replaced(
    start_stub: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    stub = start_stub(Behaviour())
    code, stdout, _ = run(capsys, "replay", "--url", stub.url, *LOAD, *EASY, "--header", "Authorization=Basic abc")
    assert code == 0, stdout
    assert {headers["Authorization"] for headers in stub.headers} == {"Basic abc"}


def test_all_requests_may_go_at_once(start_stub: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stub = start_stub(Behaviour(unlisted=("lora-04",)))
    code, stdout, stderr = run(
        capsys, "replay", "--url", stub.url, *LOAD, *EASY, "--duration", "8", "--request-rate", "inf",
        "--num-loras", "5", "--out", str(tmp_path),
    )  # fmt: skip
    assert code == 0, stderr
    assert f"{'Request rate configured (RPS):':<40} inf" in stdout
    assert "all requests at once" in stdout
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert (rows["arrival_s"] == 0.0).all()
    assert len(rows) > 10
    assert (tmp_path / "report.html").exists()


def test_requests_longer_than_the_server_takes_are_refused(
    start_stub: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = start_stub(Behaviour(max_model_len=64))
    code, _, stderr = run(capsys, "replay", "--url", stub.url, *LOAD, *EASY)
    assert code == 2
    assert "requests are longer than the 64 tokens that the server takes" in stderr
    assert len(stderr.splitlines()) == 1
    assert not stub.bodies
    # How many tokens a text makes is the server's business.
    assert run(capsys, "replay", "--url", stub.url, *LOAD, *EASY, "--prompt", "text")[0] == 0
    short = ("--max-prompt-tokens", "59")
    assert run(capsys, "replay", "--url", stub.url, *LOAD, *EASY, *short)[0] == 0


def test_the_figures_are_printed_where_the_files_cannot_be_written(
    start_stub: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LibraError("--out: cannot write results there (No space left on device)")

    monkeypatch.setattr("bench.replay.report.write_run", fail)
    stub = start_stub(Behaviour())
    code, stdout, stderr = run(capsys, "replay", "--url", stub.url, *LOAD, *EASY, "--out", str(tmp_path))
    assert code == 2
    assert stderr.splitlines()[-1].endswith("(No space left on device)")
    assert json.loads(stdout.splitlines()[-1])["valid"] is True


def test_ctrl_c_after_the_last_answer_loses_nothing(
    start_stub: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> ReplayOutcome:
        signal.raise_signal(signal.SIGINT)
        return conclude(*arguments)

    monkeypatch.setattr("bench.replay.run.conclude", interrupted)
    stub = start_stub(Behaviour())
    code, stdout, _ = run(capsys, "replay", "--url", stub.url, *LOAD, *EASY, "--out", str(tmp_path))
    assert code == 0
    assert json.loads(stdout.splitlines()[-1])["partial"] is False
    assert (tmp_path / "meta.json").exists()


def test_a_server_without_token_ids_cannot_have_its_answers_sent_back(
    start_stub: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, _two_turns(num_sessions=1))
    stub = start_stub(Behaviour())
    code, _, stderr = run(capsys, "replay", "--url", stub.url, "--trace", str(trace), "--answers", "server", *EASY)
    assert code == 2
    assert "returns no token ids" in stderr
    assert len(stub.bodies) == 1  # the warm-up


def test_a_warm_up_that_fails_stops_the_run(start_stub: Start, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, stderr = run(capsys, "replay", "--url", start_stub(Behaviour(script=["404"])).url, *LOAD)
    assert code == 2
    assert "the warm-up request failed (http 404: told to answer 404)" in stderr


def test_ctrl_c_keeps_the_rows_there_are(start_stub: Start, tmp_path: Path) -> None:
    stub, out = start_stub(Behaviour(ttft_s=0.02)), tmp_path / "run"
    command = [sys.executable, "-m", "bench.cli", "replay", "--url", stub.url, *LOAD, *EASY, "--out", str(out)]
    command += ["--duration", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline_s = time.monotonic() + 20
    while len(stub.bodies) < 6 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr.decode()
    assert b"Traceback" not in stderr
    assert json.loads(stdout.splitlines()[-1])["partial"] is True
    assert json.loads((out / "meta.json").read_text())["partial"] is True
    rows = pd.read_csv(out / "rows.csv")
    assert (rows["status"] == "finished").sum() >= 3
