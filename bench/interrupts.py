"""Ctrl-C while there is something to lose."""

import signal
import threading
from typing import Any


class Interrupts:
    """Ctrl-C within a block. It raises KeyboardInterrupt as ever until ``hold``; from then on it only sets ``noted``,
    and whoever works within the block ends soon.

    Signals are the main thread's: in any other thread nothing is held, and nothing noted.
    """

    def __init__(self) -> None:
        self.noted = False
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        return self

    def hold(self) -> None:
        if self._before is None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _note(self, number: int, frame: object) -> None:
        self.noted = True
