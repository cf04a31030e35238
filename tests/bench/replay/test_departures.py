"""What is to leave at a time leaves then, whoever looks at the clock."""

import asyncio
import math
import time
from functools import partial

import pytest

from bench.replay.departures import Departures
from bench.replay.job import loop_factory
from bench.replay.settings import EventLoop


@pytest.mark.parametrize("loop", EventLoop)
def test_a_timer_sees_to_every_departure_in_order(loop: EventLoop) -> None:
    if loop is EventLoop.UVLOOP:
        pytest.importorskip("uvloop")
    left: list[tuple[float, float]] = []

    async def run() -> None:
        departures, start_s = Departures(), time.monotonic()

        def depart(due_s: float) -> None:
            left.append((due_s, time.monotonic()))

        departures.add(start_s - 1.0, partial(depart, start_s - 1.0))
        assert len(left) == 1, "what is late already leaves at once"
        for delay_s in (0.35, 0.3, 0.4, 0.3501):
            departures.add(start_s + delay_s, partial(depart, start_s + delay_s))
        while departures:
            await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(run())
    assert len(left) == 5
    assert [due_s for due_s, _ in left] == sorted(due_s for due_s, _ in left)
    assert all(left_s >= due_s for due_s, left_s in left), "nothing leaves early"


def test_whoever_takes_a_piece_can_let_go_what_the_timer_has_no_chance_to() -> None:
    left: list[str] = []

    async def run() -> None:
        departures, start_s = Departures(), time.monotonic()
        departures.add(start_s + 30.0, partial(left.append, "first"))
        departures.add(start_s + 60.0, partial(left.append, "second"))
        assert departures.next_s == start_s + 30.0
        departures.leave(start_s)
        assert not left
        departures.leave(start_s + 30.0)  # the event loop has its hands full
        assert left == ["first"]
        assert departures.next_s == start_s + 60.0
        (second,) = departures.clear()
        assert not departures
        assert departures.next_s == math.inf
        second()
        await asyncio.sleep(0.02)

    asyncio.run(run())
    assert left == ["first", "second"]
