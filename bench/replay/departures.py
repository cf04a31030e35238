"""What is to be done at fixed times, on time also while the event loop has its hands full."""

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from itertools import count

# uvloop's timers know milliseconds, and one that is too early would only be set again.
_LEAST_DELAY_S = 1e-3


class Departures:
    """Calls what was added at its time of ``time.monotonic``, earliest first.

    Near its limit an event loop hands out hundreds of arrived pieces before it looks at a timer again, ten milliseconds
    and more. So whoever takes a piece looks here, too: ``if now_s >= departures.next_s: departures.leave(now_s)``.
    """

    def __init__(self) -> None:
        self.next_s = math.inf
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, due_s: float, depart: Callable[[], None]) -> None:
        """To be called from within the event loop; ``depart`` may be called at once, and must not add anything."""
        heapq.heappush(self._waiting, (due_s, next(self._numbers), depart))
        if due_s < self.next_s:
            self.leave(time.monotonic())

    def leave(self, now_s: float) -> None:
        """Calls all that is due."""
        while self._waiting and self._waiting[0][0] <= now_s:
            heapq.heappop(self._waiting)[2]()
        self._wait(now_s)

    def clear(self) -> list[Callable[[], None]]:
        """Takes back all that has not been called, earliest first."""
        left = [depart for _, _, depart in sorted(self._waiting)]
        self._waiting.clear()
        self._wait(0.0)
        return left

    def _wait(self, now_s: float) -> None:
        """Sees to it that a timer rings at the next departure or before, which does no harm."""
        self.next_s = self._waiting[0][0] if self._waiting else math.inf
        if self._timer_s <= self.next_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = self.next_s
        delay_s = max(self.next_s - now_s, _LEAST_DELAY_S)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_s = None, math.inf
        self.leave(time.monotonic())
