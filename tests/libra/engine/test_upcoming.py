"""Requests that wait for others: when they arrive, and what becomes of them when those they wait for never finish."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.engine.record import RequestRecord
from libra.engine.upcoming import Upcoming
from libra.request import Request


def independent(identifier: int, arrival_s: float) -> Request:
    return Request(identifier, arrival_s, None, 1, prompt_token_ids=(1,))


def waiting(identifier: int, *after: int, delay_s: float = 0.0) -> Request:
    return replace(independent(identifier, 0.0), after=after, delay_s=delay_s)


def ended(identifier: int, finish_s: float, status: str = "finished") -> RequestRecord:
    return RequestRecord(identifier, None, None, 0.0, 1, 1, status=status, finish_s=finish_s)


def taken(upcoming: Upcoming, now_s: float) -> list[tuple[int, float]]:
    return [(request.id, request.arrival_s) for request in upcoming.take(now_s)]


def test_requests_come_by_time_and_equal_times_in_the_order_of_the_trace() -> None:
    upcoming = Upcoming([independent(0, 1.0), independent(1, 2.0), independent(2, 2.0), independent(3, 5.0)])
    assert upcoming.next_arrival_s == 1.0
    assert taken(upcoming, 2.0) == [(0, 1.0), (1, 2.0), (2, 2.0)]
    assert upcoming.next_arrival_s == 5.0
    assert taken(upcoming, 9.0) == [(3, 5.0)]
    assert not upcoming


def test_a_follower_arrives_a_delay_after_the_last_it_waits_for() -> None:
    upcoming = Upcoming([independent(0, 0.0), independent(1, 0.0), waiting(2, 0, 1, delay_s=0.5)])
    assert taken(upcoming, 0.0) == [(0, 0.0), (1, 0.0)]
    records = [ended(1, 7.0)]
    upcoming.note(records)
    assert upcoming.next_arrival_s == math.inf
    assert upcoming, "one still waits"
    records.append(ended(0, 4.0))
    upcoming.note(records)
    assert upcoming.next_arrival_s == 7.5
    assert taken(upcoming, 7.4) == []
    assert taken(upcoming, 7.5) == [(2, 7.5)]
    assert not upcoming


@pytest.mark.parametrize("status", ["rejected", "aborted"])
def test_followers_of_one_that_does_not_finish_are_cancelled_and_so_are_theirs(status: str) -> None:
    upcoming = Upcoming([independent(0, 0.0), independent(1, 0.0), waiting(2, 0, 1), waiting(3, 2), waiting(4, 1)])
    assert len(taken(upcoming, 0.0)) == 2
    upcoming.note([ended(0, 1.0, status), ended(1, 2.0)])
    assert taken(upcoming, 2.0) == [(4, 2.0)]
    assert not upcoming
    assert [(record.id, record.status, record.reason) for record in upcoming.cancelled] == [
        (2, "cancelled", f"it waits for request 0, which was {status}"),
        (3, "cancelled", "it waits for request 2, which was cancelled"),
    ]


def test_waiting_for_one_that_does_not_stand_before_is_refused() -> None:
    with pytest.raises(ValueError, match="request 0 waits for one of"):
        Upcoming([waiting(0, 1), independent(1, 0.0)])


@st.composite
def graphs(draw: st.DrawFn) -> list[Request]:
    requests = []
    for identifier in range(draw(st.integers(1, 12))):
        after = draw(st.lists(st.integers(0, max(0, identifier - 1)), max_size=3, unique=True)) if identifier else []
        delay_s = draw(st.sampled_from([0.0, 0.25, 1.0])) if after else 0.0
        requests.append(waiting(identifier, *after, delay_s=delay_s) if after else independent(identifier, 0.0))
    return requests


@given(requests=graphs(), fails=st.sets(st.integers(0, 11), max_size=3))
@settings(max_examples=60)
def test_everybody_arrives_when_due_or_is_cancelled(requests: list[Request], fails: set[int]) -> None:
    upcoming, records, now_s = Upcoming(requests), [], 0.0
    arrivals: dict[int, float] = {}
    while upcoming:
        now_s = max(now_s, upcoming.next_arrival_s)
        for request in upcoming.take(now_s):
            arrivals[request.id] = request.arrival_s
            records.append(ended(request.id, now_s + 0.5, "rejected" if request.id in fails else "finished"))
        upcoming.note(records)
    finish_s = {record.id: record.finish_s for record in records if record.status == "finished"}
    cancelled = {record.id for record in upcoming.cancelled}
    assert arrivals.keys() | cancelled == set(range(len(requests)))
    assert not arrivals.keys() & cancelled
    for request in requests:
        if request.id in cancelled:
            assert any(parent not in finish_s for parent in request.after)
        elif request.after:
            assert arrivals[request.id] == max(finish_s[parent] for parent in request.after) + request.delay_s
