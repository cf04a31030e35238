"""Time for the engine: the wall's, or a simulation's own."""

import math
import threading
import time
from abc import ABC, abstractmethod


class Clock(ABC):
    """Seconds since the clock was made. Everything that reads time in the engine reads it here."""

    @abstractmethod
    def now(self) -> float:
        """The current time in seconds; never decreases."""

    @abstractmethod
    def advance_to(self, time_s: float) -> None:
        """Returns when ``now() >= time_s``. A wall clock sleeps, a virtual one jumps; a past time is a no-op."""

    @abstractmethod
    def rest_until(self, time_s: float) -> None:
        """Returns when ``now() >= time_s``, or as soon as somebody has rung since the last rest. For one thread, the
        engine's."""

    @abstractmethod
    def ring(self) -> None:
        """Ends the rest under way, or else the next one. From any thread: something has happened."""


class WallClock(Clock):
    """Real time, from zero at construction."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._rung = threading.Event()

    def restart(self) -> None:
        """Sets the time to zero, after preparations that should not count."""
        self._start = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._start

    def advance_to(self, time_s: float) -> None:
        delay = time_s - self.now()
        if delay > 0:
            time.sleep(delay)

    def rest_until(self, time_s: float) -> None:
        delay = time_s - self.now()
        if delay > 0:
            self._rung.wait(None if math.isinf(delay) else delay)
        # Before the caller looks around: whoever rings from now on may have done what it does not see.
        self._rung.clear()

    def ring(self) -> None:
        self._rung.set()


class VirtualClock(Clock):
    """A simulation's time: it stands still until told to advance."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def advance_to(self, time_s: float) -> None:
        self._now = max(self._now, time_s)

    def rest_until(self, time_s: float) -> None:
        self.advance_to(time_s)

    def ring(self) -> None:
        """Whatever happens in virtual time is known in advance."""
