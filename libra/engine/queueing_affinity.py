"""Adapter affinity: requests that need no further adapter in HBM come first."""

from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice

from libra.engine.queueing import Queueing, split_by_patience
from libra.engine.sequence import Sequence


class AdapterAffinity(Queueing):
    """First those whose adapter an admitted request uses already, then the rest, by arrival within each.

    Where memory is short, an adapter that is in use anyway costs its next request nothing, and every further distinct
    adapter takes room that KV could have. Where memory is not short, all are admitted at once and the order is of no
    consequence. Nobody is passed for longer than ``max_pass_s``.
    """

    reorders = True

    def __init__(self, max_pass_s: float, max_scan: int) -> None:
        self._max_pass_s = max_pass_s
        self._max_scan = max_scan
        self._admitted: dict[Sequence, str | None] = {}
        self._num_users: Counter[str | None] = Counter()

    def order(self, waiting: deque[Sequence], now_s: float) -> Iterable[Sequence]:
        """Looks at the ``max_scan`` requests that came first."""
        first, rest = split_by_patience(islice(waiting, self._max_scan), now_s, self._max_pass_s)
        return [*first, *sorted(rest, key=self._needs_adapter)]

    def _needs_adapter(self, sequence: Sequence) -> bool:
        return sequence.adapter_id is not None and self._num_users[sequence.adapter_id] == 0

    def admitted(self, sequence: Sequence) -> None:
        self._admitted[sequence] = sequence.adapter_id
        self._num_users[sequence.adapter_id] += 1

    def left(self, sequence: Sequence) -> None:
        if sequence in self._admitted:
            self._num_users[self._admitted.pop(sequence)] -= 1
