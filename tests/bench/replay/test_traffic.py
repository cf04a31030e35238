"""The changes a live server calls for: base share, held turns, and dealing requests out to senders."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.replay.settings import CHAT, AnswerSource, ReplaySettings
from bench.replay.traffic import build_trace, hold_turns, send_to_base, split_requests
from libra.errors import LibraError
from libra.request import Request
from workloads.service import ServiceTime

SETTINGS = ReplaySettings(url="x", workload="chatbot", num_loras=5, duration_s=300.0, request_rate=2.0)


def test_whole_sessions_go_to_the_base_model() -> None:
    trace = build_trace(SETTINGS)
    shared = send_to_base(trace, 0.3, seed=0)
    sessions: dict[str | None, set[bool]] = {}
    for request in shared.requests:
        sessions.setdefault(request.session, set()).add(request.adapter is None)
    assert all(len(kinds) == 1 for kinds in sessions.values())
    share = sum(True in kinds for kinds in sessions.values()) / len(sessions)
    assert 0.15 < share < 0.45
    assert send_to_base(trace, 0.3, seed=0).requests == shared.requests


def test_held_turns_wait_for_the_answer_and_the_think_time() -> None:
    trace = build_trace(SETTINGS)
    held = hold_turns(trace)
    earlier: dict[str | None, Request] = {}
    num_held = 0
    for plain, request in zip(trace.requests, held.requests, strict=True):
        before = earlier.get(plain.session)
        if before is None:
            assert request.after == ()
        else:
            think_s = plain.arrival_s - before.arrival_s - ServiceTime().of(before.output_tokens)
            assert request.after == (before.id,)
            assert request.delay_s == pytest.approx(max(think_s, 0.0), abs=1e-5)
            num_held += 1
        earlier[plain.session] = plain
    assert num_held > 10


def test_an_infinite_rate_sends_all_at_once() -> None:
    at_once = build_trace(replace(SETTINGS, request_rate=math.inf))
    assert len(at_once.requests) == len(build_trace(replace(SETTINGS, request_rate=None)).requests)
    assert {request.arrival_s for request in at_once.requests} == {0.0}
    assert at_once.request_rate == math.inf
    held = build_trace(replace(SETTINGS, request_rate=math.inf, answers=AnswerSource.SERVER))
    assert {request.delay_s for request in held.requests} == {0.0}
    assert any(request.after for request in held.requests)
    for rate in (0.0, -1.0, math.nan):
        with pytest.raises(LibraError, match="must be positive, or inf"):
            replace(SETTINGS, request_rate=rate)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(1, 5))
def test_senders_share_the_requests_and_keep_chains_whole(links: list[int], num_parts: int) -> None:
    requests = [
        Request(number, float(number), None, 1, after=(number - link,) if link and number >= link else ())
        for number, link in enumerate(links)
    ]
    parts = split_requests(requests, num_parts)
    assert Counter(request.id for part in parts for request in part) == Counter(range(len(links)))
    for part in parts:
        ids = [request.id for request in part]
        assert ids == sorted(ids)
        assert all(set(request.after) <= set(ids) for request in part)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trace": "x", "workload": "chatbot"}, "not both or none"),
        ({"workload": None}, "not both or none"),
        ({"trace": "x", "workload": None, "burstiness": 2.0}, "a trace has its own"),
        ({"endpoint": "/v1/complete"}, "did you mean '/v1/completions'"),
        ({"endpoint": CHAT}, "takes no token ids"),
        ({"base_share": 1.5}, "shares from 0 to 1"),
        ({"max_concurrency": 1, "workers": 2}, "less than --workers"),
        ({"request_timeout_s": float("nan")}, "--request-timeout is nan"),
        ({"num_warmups": -1}, "--num-warmups is -1"),
        ({"warmup_s": -1.0}, "--warmup-duration is -1.0"),
    ],
)
def test_settings_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(LibraError, match=message):
        ReplaySettings(**({"url": "x", "workload": "chatbot"} | changes))  # type: ignore[arg-type]


def test_own_answers_hold_the_turns_of_a_built_trace() -> None:
    trace = build_trace(ReplaySettings(url="x", workload="chatbot", duration_s=300.0, answers=AnswerSource.SERVER))
    assert any(request.after for request in trace.requests)
