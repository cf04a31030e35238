"""LMSYS parquet: both layouts, recorded times, and files that are not of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from libra.errors import LibraError
from tests.workloads.texts import SLOW, sample_paths, write_parquet
from workloads.formats import ReadOptions
from workloads.registry import FORMATS
from workloads.trace import Trace

SAID = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
BATTLE: dict[str, Any] = {
    "model_a": "a", "model_b": "b", "conversation_a": SAID, "conversation_b": SAID, "tstamp": 1.7e9,
}  # fmt: skip


def read(path: Path, *rows: dict[str, Any], options: ReadOptions = SLOW) -> Trace:
    return FORMATS["lmsys"].read([write_parquet(path, *rows)], options)


def test_chats_without_a_time(tmp_path: Path) -> None:
    rows = [{"conversation_id": str(number), "model": "vicuna", "conversation": SAID} for number in range(3)]
    trace = read(tmp_path / "train-00000.parquet", *rows)
    assert [request.adapter for request in trace.requests] == ["vicuna"] * 3
    assert trace.header.provenance.arrival_source == "drawn"


def test_a_battle_is_two_sessions_at_one_time(tmp_path: Path) -> None:
    later = {**BATTLE, "model_b": "c", "tstamp": 1.7e9 + 20.5}
    trace = read(tmp_path / "x.parquet", later, BATTLE)
    assert [(request.adapter, request.arrival_s) for request in trace.requests] == [
        ("a", 0.0), ("b", 0.0), ("a", 20.5), ("c", 20.5),
    ]  # fmt: skip
    assert trace.header.provenance.arrival_source == "mapped"


def test_a_process_takes_the_place_of_recorded_times(tmp_path: Path) -> None:
    battles = [{**BATTLE, "tstamp": 1.7e9 + 1000.0 * number} for number in range(20)]
    options = ReadOptions(arrivals="poisson", request_rate=2.0)
    trace = read(tmp_path / "x.parquet", *battles, options=options)
    assert trace.header.provenance.arrival_source == "drawn"
    assert trace.header.duration_s == pytest.approx(20.0)  # 40 sessions of a turn at 2 req/s
    assert trace.header.parameters["arrivals"] == "poisson"
    assert Counter(request.adapter for request in trace.requests) == {"a": 20, "b": 20}


def test_a_system_prompt_opens_the_first_prompt(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "x" * 39}, *SAID]
    trace = read(tmp_path / "x.parquet", {"model": "m", "conversation": said})
    assert trace.requests[0].num_prompt_tokens == 11


def test_conversations_as_json_text(tmp_path: Path) -> None:
    trace = read(tmp_path / "x.parquet", {"model": "m", "conversation": json.dumps(SAID)})
    assert trace.requests[0].output_tokens == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**BATTLE, "tstamp": float("nan")}, "row 2: 'tstamp' is nan; it must be finite and 0 or more"),
        ({**BATTLE, "tstamp": -1.0}, "row 2: 'tstamp' is -1.0; it must be finite"),
        ({**BATTLE, "tstamp": None}, "row 2: 'tstamp' is 'None'; it must be seconds"),
        ({**BATTLE, "model_a": None}, "row 2: 'model_a' must be a non-empty string"),
        ({**BATTLE, "conversation_b": None}, "row 2: 'conversation_b' must be a list of messages"),
        ({**BATTLE, "conversation_a": []}, "row 2: 'conversation_a' must be a list of messages"),
        ({**BATTLE, "conversation_a": [{"role": "bot", "content": "x"}]}, "row 2: 'conversation_a[0].role' is 'bot'"),
        ({**BATTLE, "conversation_a": [{"role": "user", "content": None}]}, "row 2: 'content' must be a string"),
        ({**BATTLE, "conversation_a": [*SAID, {"role": "system", "content": "x"}]}, "'conversation_a[2].role'"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(LibraError) as raised:
        read(path, BATTLE, row)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_bad_json_text(tmp_path: Path) -> None:
    with pytest.raises(LibraError, match="row 1: 'row' is not JSON"):
        read(tmp_path / "x.parquet", {"model": "m", "conversation": '[{"role":'})


def test_other_columns(tmp_path: Path) -> None:
    with pytest.raises(LibraError, match=r"has neither the columns model and conversation .*; it has model, winner"):
        read(tmp_path / "x.parquet", {"model": "m", "winner": "a"})


def test_damaged_files(tmp_path: Path) -> None:
    path = sample_paths("lmsys", tmp_path)[0]
    content = path.read_bytes()
    for damaged in (content[:-30], content[: len(content) // 2], b"PAR1", b""):
        path.write_bytes(damaged)
        with pytest.raises(LibraError, match="cannot be read as parquet"):
            FORMATS["lmsys"].read([path], SLOW)
    with pytest.raises(LibraError, match="no such file"):
        FORMATS["lmsys"].read([tmp_path / "absent.parquet"], SLOW)


def test_input_is_limited(tmp_path: Path) -> None:
    row = {"model": "m", "conversation": [{"role": "user", "content": "x" * 5000}, SAID[1]]}
    with pytest.raises(LibraError, match="raise --max-input-gib"):
        read(tmp_path / "x.parquet", *[row] * 10, options=ReadOptions(max_bytes=20_000))
