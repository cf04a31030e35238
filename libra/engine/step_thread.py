"""Computes beside the engine's thread, which goes on meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from libra.clock import Clock
from libra.engine.executor import Rest

T = TypeVar("T")


class StepThread:
    """One thread that does one piece of work at a time. It ends when nobody refers to this object any more.

    The work must need the interpreter little, as torch's products and waits for a device do: they release its lock.
    Torch's own threads belong to the thread that computes, so an executor computes everything in one and the same.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="steps")

    def run(self, work: Callable[[], T], while_busy: Callable[[Rest], None] | None = None) -> T:
        """What ``work`` returns or raises. Meanwhile ``while_busy``, in the calling thread: its ``Rest`` ends whenever
        the clock rings, and is False once the work is done."""
        future = self._pool.submit(work)
        if while_busy is not None:
            future.add_done_callback(lambda _: self._clock.ring())

            def rest(until_s: float) -> bool:
                if not future.done():
                    self._clock.rest_until(until_s)
                return not future.done()

            while_busy(rest)
        return future.result()
