"""Work beside the engine's thread: what it returns, what it raises, and when the engine looks up."""

import threading

import pytest

from libra.clock import WallClock
from libra.engine.executor import Rest
from libra.engine.step_thread import StepThread


def test_the_caller_goes_on_while_the_work_is_done() -> None:
    clock, gate, rests = WallClock(), threading.Event(), []
    thread = StepThread(clock)

    def meanwhile(rest: Rest) -> None:
        rests.append(rest(clock.now() + 0.01))
        gate.set()
        while rest(float("inf")):
            rests.append(True)

    assert thread.run(lambda: gate.wait(10) and threading.current_thread().name, meanwhile) != "MainThread"
    assert rests[0]


def test_a_rest_ends_when_the_clock_rings() -> None:
    clock, gate = WallClock(), threading.Event()
    looked: list[float] = []

    def meanwhile(rest: Rest) -> None:
        clock.ring()
        assert rest(float("inf"))
        looked.append(clock.now())
        gate.set()
        while rest(float("inf")):
            pass

    StepThread(clock).run(lambda: gate.wait(10), meanwhile)
    assert looked[0] < 5


def test_work_runs_in_one_thread_and_its_errors_are_the_callers() -> None:
    thread = StepThread(WallClock())
    assert thread.run(threading.get_ident) == thread.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 // 0, lambda rest: None)
