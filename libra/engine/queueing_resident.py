"""Resident first: requests whose adapter is in HBM come first, those with the least left to compute before others."""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from libra.engine.queueing import Queueing, split_by_patience
from libra.engine.sequence import Sequence

HasAdapter = Callable[[Sequence], bool]
TokensToCompute = Callable[[Sequence], int]


class ResidentFirst(Queueing):
    """First those whose adapter is in HBM or on its way, then the rest; within each, fewest tokens to compute first.

    Where memory is short, an adapter that is there anyway costs its next request nothing, and every further one takes
    room that KV could have. Where computing is short, the mean wait is least when short work goes first. Where neither
    is short, all are admitted at once and the order is of no consequence. Nobody is passed for longer than
    ``max_pass_s``.
    """

    reorders = True

    def __init__(
        self, has_adapter: HasAdapter, tokens_to_compute: TokensToCompute, max_pass_s: float, max_scan: int
    ) -> None:
        """``has_adapter``: whether a request's adapter is in HBM or loading. ``tokens_to_compute``: its known tokens
        that neither tier holds; asked once, and again when another request of its adapter has left KV behind."""
        self._has_adapter = has_adapter
        self._tokens_to_compute = tokens_to_compute
        self._max_pass_s = max_pass_s
        self._max_scan = max_scan
        self._tokens: dict[str | None, dict[Sequence, int]] = {}

    def order(self, waiting: deque[Sequence], now_s: float) -> Iterable[Sequence]:
        """Looks at the ``max_scan`` requests that came first."""
        first, rest = split_by_patience(islice(waiting, self._max_scan), now_s, self._max_pass_s)
        return [*first, *sorted(rest, key=self._rank)] if len(rest) > 1 else [*first, *rest]

    def _rank(self, sequence: Sequence) -> tuple[bool, int]:
        known = self._tokens.setdefault(sequence.adapter_id, {})
        if sequence not in known:
            known[sequence] = self._tokens_to_compute(sequence)
        return not self._has_adapter(sequence), known[sequence]

    def admitted(self, sequence: Sequence) -> None:
        self._tokens.get(sequence.adapter_id, {}).pop(sequence, None)

    def left(self, sequence: Sequence) -> None:
        self._tokens.pop(sequence.adapter_id, None)
