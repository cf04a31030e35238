"""The trace format: round trips, and one line of help for everything that is not a trace."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra.errors import LibraError
from libra.request import Request, Segment
from tests.workloads.builders import HEADER, row, write_rows
from workloads.header import Provenance, TraceHeader
from workloads.trace import Trace, parse_trace, read_trace, trace_lines, trace_sha256, write_trace

GENERATED = Provenance("generated", "generated", "generated", "generated")

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
segments = st.builds(Segment, names, st.integers(0, 9), st.integers(1, 99))
tokens = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5).map(tuple)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    arrivals = sorted(draw(st.lists(st.floats(0, 1e6), min_size=1, max_size=6)))
    adapters = draw(st.dictionaries(names, st.none() | st.integers(1, 256), min_size=1, max_size=3))
    requests = []
    for identifier, arrival_s in enumerate(arrivals):
        explicit = draw(st.booleans())
        answer = draw(tokens)
        after = tuple(draw(st.lists(st.sampled_from(range(identifier)), unique=True))) if identifier else ()
        requests.append(
            Request(
                id=identifier,
                arrival_s=arrival_s,
                adapter=draw(st.none() | st.sampled_from(sorted(adapters))),
                output_tokens=len(answer),
                prompt=() if explicit else tuple(draw(st.lists(segments, min_size=1, max_size=4))),
                prompt_token_ids=draw(tokens) if explicit else None,
                output=None if explicit else draw(st.none() | names),
                output_token_ids=answer if explicit else None,
                session=None,
                task=draw(st.none() | names),
                after=after,
                delay_s=draw(st.floats(0, 10)) if after else 0.0,
            )
        )
    return Trace(TraceHeader("n", 1, GENERATED, 1.0, adapters, {"x": [1, None]}, {"cut": 2}, ("w",)), tuple(requests))


@given(traces())
def test_lines_parse_back_to_the_same_trace(trace: Trace) -> None:
    assert parse_trace(trace_lines(trace), "memory") == trace


def test_file_round_trip_and_sha256(tmp_path: Path) -> None:
    trace = read_trace(write_rows(tmp_path / "a.jsonl", row(0), row(1)))
    write_trace(tmp_path / "b.jsonl", trace)
    assert read_trace(tmp_path / "b.jsonl") == trace
    assert hashlib.sha256((tmp_path / "b.jsonl").read_bytes()).hexdigest() == trace_sha256(trace)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_design_example_reads(tmp_path: Path) -> None:
    example = (
        '{"id": 17, "arrival_s": 3.204, "adapter": "a07", "session": "s12", "prompt": [["sys3", 0, 256], '
        '["s12.t0", 0, 80], ["s12.o0", 0, 140]], "output_tokens": 140, "output": "s12.o1"}'
    )
    (request,) = parse_trace([json.dumps(HEADER) + "\n", example], "memory").requests
    assert request.prompt[2] == Segment("s12.o0", 0, 140)
    assert request.num_prompt_tokens == 476
    assert request.output == "s12.o1"


def test_adapters_are_gathered_where_the_header_lists_none(tmp_path: Path) -> None:
    trace = read_trace(write_rows(tmp_path / "t.jsonl", row(0), row(1, adapter="b", session="s1")))
    assert trace.header.adapters == {"a": None, "b": None}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(0, arrival_s=5.0), row(1, arrival_s=4.0)], "line 3: 'arrival_s' is 4.0 after 5.0; sort the rows"),
        ([row(0, arrival_s=-1.0)], "line 2: 'arrival_s' is -1.0; it must be finite and 0 or more"),
        ([row(0, arrival_s=float("nan"))], "line 2: 'arrival_s' is nan"),
        ([row(0, arrival_s=float("inf"))], "line 2: 'arrival_s' is inf"),
        ([row(0, arrival_s="3")], "line 2: 'arrival_s' must be a number of seconds, not '3'"),
        ([row(0, arrival_s=...)], "line 2: 'arrival_s' is missing"),
        ([row(0), row(0)], "line 3: 'id' is 0, which an earlier row has"),
        ([row(True)], "line 2: 'id' must be an integer, not True"),
        ([row(0, outptu_tokens=3)], "line 2: unknown trace field 'outptu_tokens': did you mean 'output_tokens'?"),
        ([row(0, output_tokens=0)], "line 2: 'output_tokens' is 0; it must be 1 or more"),
        ([row(0, output_tokens=1.5)], "line 2: 'output_tokens' must be an integer, not 1.5"),
        ([row(0, prompt=[])], "line 2: 'prompt' must be a non-empty list"),
        ([row(0, prompt=...)], "line 2: 'prompt' or 'prompt_token_ids' must be there, and not both"),
        ([row(0, prompt_token_ids=[1])], "line 2: 'prompt' or 'prompt_token_ids' must be there, and not both"),
        ([row(0, prompt=[["x", 0]])], "line 2: 'prompt' holds ['x', 0]; a segment is [id, start, length]"),
        ([row(0, prompt=[["x", 0, -4]])], "line 2: 'prompt' holds ['x', 0, -4]"),
        ([row(0, prompt=[["x", -1, 4]])], "line 2: 'prompt' holds ['x', -1, 4]"),
        ([row(0, prompt=[["x", 0.5, 4]])], "a segment is [text, integer, integer]"),
        ([row(0, prompt=..., prompt_token_ids=[1, -1])], "'prompt_token_ids' holds -1; a token id is"),
        ([row(0, prompt=..., prompt_token_ids=[])], "'prompt_token_ids' must be a non-empty list"),
        ([row(0, output=..., output_token_ids=[1])], "'output_token_ids' has 1 tokens but output_tokens is 4"),
        ([row(0, output_token_ids=[1, 2, 3, 4])], "'output' and 'output_token_ids' exclude each other"),
        ([row(0, adapter=7)], "'adapter' must be a non-empty string, not 7"),
        ([row(0), row(1, adapter="b")], "line 3: 'adapter' is 'b' but session 's0' began with 'a'"),
        ([row(0), row(1, after=[7])], "line 3: 'after' names request 7, which no earlier row has"),
        ([row(0, after=[0])], "line 2: 'after' names request 0, which no earlier row has"),
        ([row(0), row(1, after=[])], "line 3: 'after' must be a non-empty list of request ids, not []"),
        ([row(0), row(1, after=[True])], "line 3: 'after' must be a non-empty list of request ids"),
        ([row(0), row(1, after=[0, 0])], "line 3: 'after' is [0, 0]; name every request once"),
        ([row(0), row(1, delay_s=1.0)], "line 3: 'delay_s' counts from the end of the requests in 'after'"),
        ([row(0), row(1, after=[0], delay_s=-1.0)], "line 3: 'delay_s' is -1.0; it must be finite and 0 or more"),
        ([row(0, task=3)], "line 2: 'task' must be a non-empty string, not 3"),
        ([], "has a header and no requests"),
    ],
)
def test_bad_rows_are_refused_in_one_line(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = write_rows(tmp_path / "t.jsonl", *rows)
    with pytest.raises(LibraError) as raised:
        read_trace(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"libra_trace": 2}, "schema version this libra does not know (it reads 1)"),
        ({"libra_trace": ...}, "the first line must be a libra trace header"),
        ({"sed": 1}, "unknown header field 'sed': did you mean 'seed'?"),
        ({"arrival_source": "guessed"}, "unknown arrival_source 'guessed'"),
        ({"duration_s": 0}, "'duration_s' is 0"),
        ({"seed": "x"}, "'seed' must be an integer"),
        ({"adapters": {"a": 0}}, "gives 'a' the rank 0"),
        ({"adapters": {"lora-1": 8}}, "line 2: unknown adapter 'a'"),
        ({"num_requests": 3}, "the header announces 3 requests but 1 follow"),
        ({"counts": {"cut": -1}}, "gives 'cut' the count -1"),
        ({"parameters": []}, "'parameters' must be a JSON object"),
        ({"warnings": "none"}, "'warnings' must be a list of strings"),
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    header = {name: value for name, value in {**HEADER, **change}.items() if value is not ...}
    with pytest.raises(LibraError) as raised:
        read_trace(write_rows(tmp_path / "t.jsonl", row(0), header=header))
    assert message in str(raised.value)


def test_truncated_last_line(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.jsonl", row(0), row(1))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(LibraError, match=r"line 3: 'row' is cut short: the file ends in the middle of a line"):
        read_trace(path)


def test_broken_json_inside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(HEADER) + '\n{"id": 0,\n' + json.dumps(row(1)) + "\n")
    with pytest.raises(LibraError, match=r"line 2: 'row' is not JSON"):
        read_trace(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x1f\x8b\x08\xff\xfe")
    (tmp_path / "empty").write_text("")
    with pytest.raises(LibraError, match=r"cannot read .*absent: No such file"):
        read_trace(tmp_path / "absent")
    with pytest.raises(LibraError, match="not UTF-8"):
        read_trace(tmp_path / "binary")
    with pytest.raises(LibraError, match="line 1"):
        read_trace(tmp_path / "empty")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.jsonl", row(0))
    before = path.read_text()
    trace = read_trace(path)
    broken = Trace(TraceHeader("n", 1, GENERATED, 1.0, {}, {"x": float("nan")}), trace.requests)
    with pytest.raises(ValueError, match="Out of range"):
        write_trace(path, broken)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(LibraError, match="cannot write"):
        write_trace(tmp_path / "absent" / "t.jsonl", trace)
