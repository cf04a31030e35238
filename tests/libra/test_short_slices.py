"""A thread that asks for short slices gets them, and nothing else about it changes."""

import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable

import pytest

from libra.short_slices import ask_for_short_slices

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked")
_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}


def in_a_thread(work: Callable[[], object]) -> None:
    """Runs ``work`` where it changes no other test's slices."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - raised below
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def slice_ns() -> int:
    """Of the calling thread, as sched_getattr(2) tells it."""
    told = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(_SCHED_GETATTR[platform.machine()], 0, told, 48, 0) == 0
    runtime_ns: int = struct.unpack("IIQiIQQQ", told.raw)[5]
    return runtime_ns


@pytest.mark.skipif(platform.machine() not in _SCHED_GETATTR, reason="asked by number on two kinds of machine")
def test_slices_become_short_and_priority_stays() -> None:
    def ask() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + 1)
        before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
        assert ask_for_short_slices()
        assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == before
        kernel = tuple(int(part) for part in platform.release().split(".")[:2])
        if kernel >= (6, 12):
            assert slice_ns() == 100_000

    in_a_thread(ask)


def test_where_the_system_cannot_be_asked_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    assert not ask_for_short_slices()
