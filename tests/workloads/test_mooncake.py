"""Mooncake's format: sessions, lumps, blocks and bad rows."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra.errors import LibraError
from tests.workloads.builders import mooncake_row, write_mooncake
from workloads.formats import AdapterMapping, ReadOptions
from workloads.load import load_trace
from workloads.mooncake import MAX_SESSION_BRANCHES, MooncakeReader, infer_sessions
from workloads.trace import parse_trace, trace_lines


def test_golden_conversion(tmp_path: Path) -> None:
    path = write_mooncake(
        tmp_path / "m.jsonl", mooncake_row(0, [0, 1]), mooncake_row(250, [0, 1, 2], 1025), mooncake_row(900, [5])
    )
    trace = MooncakeReader().read([path], ReadOptions(AdapterMapping(num_adapters=3), seed=1))
    rows = [json.loads(line) for line in trace_lines(trace)][1:]
    adapters = [row.pop("adapter") for row in rows]
    assert adapters[0] == adapters[1]
    assert rows == [
        {
            "id": 0,
            "arrival_s": 0.0,
            "session": "s0",
            "prompt": [["b0", 0, 512], ["b1", 0, 412]],
            "output_tokens": 7,
            "output": "r0.o",
        },
        {
            "id": 1,
            "arrival_s": 0.25,
            "session": "s0",
            "prompt": [["b0", 0, 512], ["b1", 0, 512], ["b2", 0, 1]],
            "output_tokens": 7,
            "output": "r1.o",
        },
        {
            "id": 2,
            "arrival_s": 0.9,
            "session": "s1",
            "prompt": [["b5", 0, 412]],
            "output_tokens": 7,
            "output": "r2.o",
        },
    ]
    assert trace.header.provenance.arrival_source == "native"


def test_a_shared_system_prompt_links_no_sessions() -> None:
    first_turns = [[0, 100 + number] for number in range(MAX_SESSION_BRANCHES + 1)]
    second_turns = [[*chain, 200 + chain[1]] for chain in first_turns]
    numbers = list(range(len(first_turns)))
    assert infer_sessions(first_turns + second_turns) == numbers + numbers


def test_a_system_prompt_of_two_blocks_links_no_sessions() -> None:
    branches = [[0, 1, 100 + number] for number in range(MAX_SESSION_BRANCHES + 1)]
    assert infer_sessions([*branches, [0, 50], [0, 51], [0, 1]]) == list(range(len(branches) + 3))


def test_few_branches_are_one_conversation() -> None:
    assert infer_sessions([[0, 1], [0, 2], [0, 1, 3], [9]]) == [0, 0, 0, 1]


@given(lumps=st.lists(st.integers(0, 30), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_lumps_are_spread_inside_themselves_in_order(
    tmp_path_factory: pytest.TempPathFactory, lumps: list[int], seed: int
) -> None:
    stamps = sorted(3000 * lump for lump in lumps)
    path = tmp_path_factory.getbasetemp() / "lumps.jsonl"
    write_mooncake(path, *(mooncake_row(stamp, [number]) for number, stamp in enumerate(stamps)))
    trace = MooncakeReader().read([path], ReadOptions(seed=seed))
    arrivals = np.array([request.arrival_s for request in trace.requests])
    assert np.all(np.diff(arrivals) >= 0)
    if 2 <= len(set(stamps)) < len(stamps):
        assert trace.header.provenance.arrival_source == "mapped"
        offsets = arrivals - np.array(stamps) / 1000
        assert offsets.min() >= 0
        assert offsets.max() <= trace.header.parameters["timestamp_lump_s"]
    assert arrivals[-1] <= trace.header.duration_s
    assert parse_trace(trace_lines(trace), "memory") == trace


def test_adapters_are_constant_along_sessions_and_follow_the_popularity(tmp_path: Path) -> None:
    rows = [mooncake_row(number, [number % 400, 1000 + number]) for number in range(800)]
    path = write_mooncake(tmp_path / "m.jsonl", *rows)
    trace = load_trace(path, num_loras=10, popularity="zipf:1.0", seed=3)
    by_session = defaultdict(set)
    for request in trace.requests:
        by_session[request.session].add(request.adapter)
    assert len(by_session) == 400
    assert all(len(adapters) == 1 for adapters in by_session.values())
    assert sum(adapters == {"lora-00"} for adapters in by_session.values()) == pytest.approx(400 / 2.929, rel=0.2)


def test_rows_without_a_prompt_or_an_answer_are_counted(tmp_path: Path) -> None:
    path = write_mooncake(
        tmp_path / "m.jsonl", mooncake_row(0, [1]), mooncake_row(1, [], 0), mooncake_row(2, [2], output_length=0)
    )
    trace = load_trace(path)
    assert len(trace.requests) == 1
    assert trace.header.counts == {"skipped_without_prompt_or_answer": 2}


def test_a_constant_feed_is_flagged(tmp_path: Path) -> None:
    path = write_mooncake(tmp_path / "m.jsonl", *(mooncake_row(1000 * number, [number]) for number in range(100)))
    assert "one row every 1 s" in load_trace(path).header.warnings[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (mooncake_row(-1, [2]), "row 2: 'timestamp' is -1; it must be 0 or more"),
        (mooncake_row(float("nan"), [2]), "row 2: 'timestamp' must be an integer, not nan"),
        (mooncake_row(1, [2]), "row 2: 'timestamp' is 1 after 3; sort the rows"),
        (mooncake_row(5, [2], -4), "row 2: 'input_length' is -4"),
        (mooncake_row(5, [2], 513), "row 2: 'hash_ids' has 1 blocks; 513 tokens need 2"),
        (mooncake_row(5, [2], hash_ids="2"), "row 2: 'hash_ids' must be a list of integers"),
        ({"timestamp": 5}, "row 2: 'row' must be a JSON object with hash_ids, input_length"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_mooncake(tmp_path / "m.jsonl", mooncake_row(3, [1]), row)
    with pytest.raises(LibraError) as raised:
        load_trace(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_truncated_last_row(tmp_path: Path) -> None:
    path = write_mooncake(tmp_path / "m.jsonl", mooncake_row(3, [1]), mooncake_row(4, [1]))
    path.write_text(path.read_text()[:-9])
    with pytest.raises(LibraError, match=r"row 2: .*the file is cut short"):
        load_trace(path)
