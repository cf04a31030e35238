"""Rates, windows and caps: nothing is dropped or cut without being counted."""

from dataclasses import replace
from pathlib import Path

import pytest

from libra.errors import LibraError
from libra.request import Segment
from tests.workloads.builders import row, trace_statistics, write_rows
from workloads.demand import Demand
from workloads.registry import WORKLOADS
from workloads.trace import Trace, read_trace
from workloads.transform import cap_lengths, first_tokens, reshape, scale_rate, window


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """10 requests in 10 s with prompts of 72 tokens and answers of 4."""
    return read_trace(write_rows(tmp_path / "t.jsonl", *(row(number) for number in range(10))))


def test_scaling_stretches_time_and_keeps_every_request(trace: Trace) -> None:
    slow = scale_rate(trace, 0.25)
    assert [request.arrival_s for request in slow.requests] == [4.0 * number for number in range(10)]
    assert slow.request_rate == 0.25
    assert slow.header.parameters["time_scale"] == 4.0
    assert scale_rate(slow, 1.0).header.parameters["time_scale"] == 1.0


@pytest.mark.parametrize("request_rate", [0.3, 7.0, 100.0])
def test_scaling_keeps_the_pattern(request_rate: float) -> None:
    original = WORKLOADS["chatbot"].generate(Demand(num_adapters=5, duration_s=300, arrivals="gamma:2"))
    scaled = scale_rate(original, request_rate)
    assert scaled.request_rate == pytest.approx(request_rate)
    assert len(scaled.requests) == len(original.requests)
    assert trace_statistics(scaled).gap_cv == pytest.approx(trace_statistics(original).gap_cv)
    for before, after in zip(original.requests, scaled.requests, strict=True):
        assert replace(after, arrival_s=before.arrival_s) == before
    stretch = scaled.header.duration_s / original.header.duration_s
    assert [request.arrival_s for request in scaled.requests] == pytest.approx(
        [request.arrival_s * stretch for request in original.requests]
    )


def test_windows_count_what_they_leave_out(trace: Trace) -> None:
    part = window(trace, 3.0, start_s=2.0)
    assert [request.id for request in part.requests] == [2, 3, 4]
    assert part.requests[0].arrival_s == 0.0
    assert part.header.duration_s == 3.0
    assert part.header.counts == {"outside_window": 7}
    assert window(trace, 99.0) == trace
    assert window(window(trace, 8.0), 5.0).header.counts == {"outside_window": 5}


def test_requests_that_wait_for_others_keep_their_delays_in_proportion(tmp_path: Path) -> None:
    trace = read_trace(write_rows(tmp_path / "t.jsonl", row(0), row(1, after=[0], delay_s=0.5)))
    assert scale_rate(trace, trace.request_rate / 4).requests[1].delay_s == 2.0


def test_a_window_leaves_out_those_who_wait_for_one_outside(tmp_path: Path) -> None:
    rows = [row(0), row(1), row(2, after=[0]), row(3, after=[2]), row(4, after=[1])]
    part = window(read_trace(write_rows(tmp_path / "t.jsonl", *rows)), 9.0, start_s=1.0)
    assert [(request.id, request.after) for request in part.requests] == [(1, ()), (4, (1,))]
    assert part.header.counts == {"outside_window": 3}


def test_caps_cut_the_end_and_are_counted(trace: Trace) -> None:
    capped = cap_lengths(trace, max_prompt_tokens=70, max_output_tokens=3)
    assert capped.requests[0].prompt == (Segment("a.sys", 0, 64), Segment("s0.t0", 0, 6))
    assert {request.output_tokens for request in capped.requests} == {3}
    assert capped.header.counts == {"prompts_capped": 10, "outputs_capped": 10}
    assert cap_lengths(trace, 72, 4) is trace


def test_caps_on_explicit_tokens(tmp_path: Path) -> None:
    explicit = row(0, prompt=..., output=..., prompt_token_ids=[1, 2, 3], output_token_ids=[4, 5, 6, 7])
    trace = cap_lengths(read_trace(write_rows(tmp_path / "t.jsonl", explicit)), 2, 1)
    assert trace.requests[0].prompt_token_ids == (1, 2)
    assert trace.requests[0].output_token_ids == (4,)


def test_first_tokens() -> None:
    segments = [Segment("a", 5, 3), Segment("b", 0, 4)]
    assert first_tokens(segments, 3) == (Segment("a", 5, 3),)
    assert first_tokens(segments, 4) == (Segment("a", 5, 3), Segment("b", 0, 1))
    assert first_tokens(segments, 99) == tuple(segments)


def test_reshape_scales_then_cuts(trace: Trace) -> None:
    shaped = reshape(trace, request_rate=2.0, duration_s=2.0, max_prompt_tokens=10)
    assert [request.arrival_s for request in shaped.requests] == [0.0, 0.5, 1.0, 1.5]
    assert {request.num_prompt_tokens for request in shaped.requests} == {10}
    assert reshape(trace) is trace


def test_bad_changes(trace: Trace) -> None:
    with pytest.raises(LibraError, match="--request-rate is 0"):
        scale_rate(trace, 0.0)
    with pytest.raises(LibraError, match="is empty: the trace holds 10 s"):
        window(trace, 5.0, start_s=10.0)
    with pytest.raises(LibraError, match="--max-prompt-tokens is 0"):
        cap_lengths(trace, max_prompt_tokens=0)
