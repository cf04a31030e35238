"""Dialogs as requests: sessions, windows, adapters, and tokens of texts."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.errors import LibraError
from libra.request import Request
from tests.workloads.builders import write_function_counts
from tests.workloads.texts import reader_of
from workloads.dialogs import Dialog, Exchange
from workloads.formats import AdapterMapping, ReadOptions
from workloads.text import TextOptions
from workloads.trace import Trace, parse_trace, trace_lines

NOWHERE = [Path("dialogs")]
exchanges = st.builds(Exchange, st.text("ab é", min_size=1), st.none() | st.text("cd", min_size=1))
dialogs = st.builds(Dialog, st.sampled_from(["x", "y", "z"]), st.lists(exchanges, min_size=1, max_size=4), st.none())
corpora = st.lists(dialogs, min_size=1, max_size=8)


def dialog(key: str, *texts: str, start_s: float | None = None) -> Dialog:
    """A dialog of texts by user and assistant in turn."""
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return Dialog(key, [Exchange(*pair) for pair in pairs], start_s)


def read(found: list[Dialog], **options: object) -> Trace:
    return reader_of(found).read(NOWHERE, ReadOptions(**options))  # type: ignore[arg-type]


def sessions_of(trace: Trace) -> dict[str, list[Request]]:
    sessions: dict[str, list[Request]] = {}
    for request in trace.requests:
        sessions.setdefault(str(request.session), []).append(request)
    return sessions


@settings(max_examples=40)
@given(corpora, st.integers(0, 3), st.sampled_from([0.02, 2.0]), st.sampled_from([0, 5]))
def test_any_dialogs_make_a_sound_trace(found: list[Dialog], seed: int, rate: float, system_tokens: int) -> None:
    options = {"seed": seed, "request_rate": rate, "text": TextOptions(system_tokens=system_tokens)}
    trace = read(found, **options)
    assert trace == read(found, **options) == parse_trace(trace_lines(trace), "memory")
    assert len(trace.requests) == sum(len(entry.exchanges) for entry in found)
    assert trace.request_rate == pytest.approx(rate, rel=1e-5)
    arrivals = [request.arrival_s for request in trace.requests]
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] <= arrivals[-1] <= trace.header.duration_s
    for turns in sessions_of(trace).values():
        assert len({turn.adapter for turn in turns}) == 1
        for earlier, later in pairwise(turns):
            context = [*earlier.prompt, (earlier.output, 0, earlier.output_tokens)]
            assert list(later.prompt[: len(context)]) == context


def test_seeds_change_the_order_and_the_times() -> None:
    found = [dialog("x", "a" * number, "b") for number in range(1, 20)]
    first, second = read(found, seed=1), read(found, seed=2)
    assert [request.prompt for request in first.requests] != [request.prompt for request in second.requests]
    assert first.requests[0].arrival_s != second.requests[0].arrival_s


def test_lengths_are_bytes_and_assumptions_are_named() -> None:
    trace = read([dialog("x", "a" * 9, "é" * 4, "b", "c")], request_rate=0.01)
    assert [(request.num_prompt_tokens, request.output_tokens) for request in trace.requests] == [(3, 2), (6, 1)]
    parameters = trace.header.parameters
    assert parameters["bytes_per_token"] == 4.0
    assert parameters["think_s"] == {"kind": "LogNormal", "mean": 15.0, "cv": 1.0}
    assert trace.header.provenance.length_source == "mapped"
    assert trace.header.provenance.arrival_source == "drawn"
    single = read([dialog("x", "a", "b")], text=TextOptions(bytes_per_token=0.5))
    assert single.requests[0].num_prompt_tokens == 2
    assert "think_s" not in single.header.parameters


def test_answers_left_out_are_drawn_and_counted() -> None:
    trace = read([Dialog("x", [Exchange("hello", None)])])
    assert trace.requests[0].output_tokens >= 1
    assert trace.header.provenance.length_source == "drawn"
    assert trace.header.parameters["answers_drawn"] == 1


def test_think_time_and_service_time_part_the_turns() -> None:
    slow = read([dialog("x", *"abab")], request_rate=1e-4, text=TextOptions(think_s=1000.0))
    fast = read([dialog("x", *"abab")], request_rate=1e-4, text=TextOptions(think_s=0.001))
    gaps = [trace.requests[1].arrival_s - trace.requests[0].arrival_s for trace in (slow, fast)]
    assert gaps[0] > 100
    assert gaps[1] == pytest.approx(0.53, abs=0.02)


def test_the_window_has_its_rate_from_end_to_end() -> None:
    trace = read([dialog("x", *"abcdefgh") for _ in range(2000)], request_rate=10)
    arrivals = np.array([request.arrival_s for request in trace.requests])
    assert trace.header.duration_s == 800
    counted = np.histogram(arrivals, 8, (0, 800))[0]
    assert counted.min() > 900
    assert counted.max() < 1100
    late = trace.header.counts["sessions_begun_before_the_window"]
    assert len(sessions_of(trace)) == 2000 + late
    assert trace.header.warnings == ()


def test_too_few_dialogs_for_the_rate_are_told() -> None:
    trace = read([dialog("x", *"abcdefgh") for _ in range(5)], request_rate=10)
    assert "too few dialogs for this request rate; lower --request-rate" in trace.header.warnings[0]


def test_recorded_times_start_the_sessions() -> None:
    found = [dialog("x", "late", "b", start_s=1e9 + 7), dialog("y", "first", "b", "again", "c", start_s=1e9)]
    trace = read(found)
    assert [(request.adapter, request.arrival_s) for request in trace.requests[:2]] == [("y", 0.0), ("x", 7.0)]
    assert trace.header.provenance.arrival_source == "mapped"
    assert "request_rate" not in trace.header.parameters
    with pytest.raises(LibraError, match="some of the dialogs have a recorded time and some have none"):
        read([*found, dialog("x", "a", "b")])


def test_arrivals_that_name_adapters_choose_the_dialogs(tmp_path: Path) -> None:
    counts = write_function_counts(tmp_path / "functions.csv", [[3] * 10, [10] * 10])
    found = [*(dialog("rare", "a", "b") for _ in range(40)), *(dialog("common", "a", "b") for _ in range(60))]
    trace = read(found, arrivals=f"azure-functions:{counts}", request_rate=0.5)
    asked = [request.adapter for request in trace.requests]
    assert asked.count("common") / len(asked) == pytest.approx(10 / 13, abs=0.12)
    assert trace.header.provenance.arrival_source == "mapped"
    unused, again = trace.header.counts["dialogs_unused"], trace.header.counts["dialogs_used_again"]
    assert len(trace.requests) == 100 - unused + again


def test_the_hot_key_moves_under_drift() -> None:
    found = [dialog("hot", "a", "b") for _ in range(300)] + [dialog(key, "a", "b") for key in "uvwxyz" for _ in "12345"]
    trace = read(found, arrivals="drift:20", request_rate=1)
    assert len({request.adapter for request in trace.requests[:15]}) <= 4
    assert max(trace.header.counts["dialogs_used_again"], 1) > 100


def test_adapters_may_be_drawn_or_shared() -> None:
    found = [dialog(key, "a", "b", "c", "d") for key in "vwxyz" for _ in range(4)]
    drawn = read(found, adapters=AdapterMapping(num_adapters=3, popularity="uniform"), request_rate=0.01)
    assert drawn.header.provenance.adapter_source == "drawn"
    assert len(drawn.header.adapters) == 3
    shared = read(found, adapters=AdapterMapping(num_adapters=2), request_rate=0.01)
    assert len({request.adapter for request in shared.requests}) == 2


def test_no_dialog_at_all() -> None:
    with pytest.raises(LibraError, match="no request"):
        read([])
    with pytest.raises(LibraError, match=r"skipped dialogs without exchange: 1"):
        read([Dialog("x", [])])
