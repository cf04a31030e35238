"""Ctrl-C while a run has something to lose."""

import signal
import threading
from collections.abc import Iterator

import pytest

from bench.interrupts import Interrupts


@pytest.fixture(autouse=True)
def _at_a_terminal() -> Iterator[None]:
    """Whoever started the tests may have signals ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_is_only_noted_once_held() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        interrupts.hold()
        interrupts.hold()
        assert not interrupts.noted
        interrupt()
        interrupt()
        assert interrupts.noted
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_the_old_ways_return_after_a_failure() -> None:
    def fail() -> None:
        with Interrupts() as interrupts:
            interrupts.hold()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def hold() -> None:
        with Interrupts() as interrupts:
            interrupts.hold()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
