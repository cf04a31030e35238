"""Time for the engine: the wall's, or a simulation's own."""

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


class WallClock(Clock):
    """Real time, from zero at construction."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def restart(self) -> None:
        """Sets the time to zero, after preparations that should not count."""
        self._start = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._start

    def advance_to(self, time_s: float) -> None:
        delay = time_s - self.now()
        if delay > 0:
            time.sleep(delay)


class VirtualClock(Clock):
    """A simulation's time: it stands still until told to advance."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def advance_to(self, time_s: float) -> None:
        self._now = max(self._now, time_s)
