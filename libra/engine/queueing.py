"""In which order waiting requests are considered for admission: the contract, and first come first served."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable

from libra.engine.sequence import Sequence


class Queueing(ABC):
    """Orders the waiting queue; may hold requests back. Whether one fits is the cache manager's business.

    Whom ``order`` names may change only when a sequence joins, is admitted or leaves, and who of them comes first for
    having been passed for long enough (``has_waited``) only then or at that moment: between such events the simulator
    jumps, since nobody in it fits. When nothing runs or loads, at least one of those that wait must be in it.
    """

    # Whether requests may be considered before ones that came earlier.
    reorders: bool = False

    @abstractmethod
    def order(self, waiting: deque[Sequence], now_s: float) -> Iterable[Sequence]:
        """Those of ``waiting`` (by arrival, preempted ones first) that may be tried now, best first. Read at once."""

    def joined(self, sequence: Sequence) -> None:
        """Called when ``sequence`` has entered the queue: on arrival, or back after a preemption."""
        return

    def admitted(self, sequence: Sequence) -> None:
        """Called when ``sequence`` has left the queue for the batch."""
        return

    def left(self, sequence: Sequence) -> None:
        """Called when ``sequence`` leaves for good, from queue or batch, or is preempted (then ``joined`` follows)."""
        return


class FirstComeFirstServed(Queueing):
    """The order of arrival."""

    def order(self, waiting: deque[Sequence], now_s: float) -> Iterable[Sequence]:
        return waiting


def has_waited(sequence: Sequence, now_s: float, max_pass_s: float) -> bool:
    """Whether ``sequence`` has been passed for as long as it may be: it comes first, and nobody passes it any more."""
    since_s = now_s if sequence.first_passed_s is None else sequence.first_passed_s
    return now_s >= since_s + max_pass_s


def split_by_patience(
    waiting: Iterable[Sequence], now_s: float, max_pass_s: float
) -> tuple[list[Sequence], list[Sequence]]:
    """Who comes first whatever the order of the rest (preempted, or passed for long enough), and the rest."""
    first: list[Sequence] = []
    rest: list[Sequence] = []
    for sequence in waiting:
        is_first = sequence.record.preemptions > 0 or has_waited(sequence, now_s, max_pass_s)
        (first if is_first else rest).append(sequence)
    return first, rest
