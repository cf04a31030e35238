"""Highest response ratio next: who has waited longest for the room it takes (Brinch Hansen, SOSP 1971)."""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from libra.engine.queueing import Queueing, split_by_patience
from libra.engine.sequence import Sequence

BlocksToCompute = Callable[[Sequence], int]
MissingBlocks = Callable[[str | None], int]


class ResponseRatio(Queueing):
    """Orders by time waited per block that admission fills; the blocks of an adapter that is not in HBM are divided
    among all who wait for it.

    Where memory or computing is short, the mean wait is least when what takes little goes first; but what takes much
    must not starve, and its turn comes as it waits. An adapter that is there anyway costs its next request nothing, and
    one that many wait for costs each of them little. Where nothing is short all are admitted at once and the order is
    of no consequence. Whoever has been passed for ``max_pass_s`` comes first.
    """

    reorders = True

    def __init__(
        self, blocks_to_compute: BlocksToCompute, missing_blocks: MissingBlocks, max_pass_s: float, max_scan: int
    ) -> None:
        """``blocks_to_compute``: those of a request's known tokens that neither tier holds; asked once, and again when
        another request of its adapter has left KV behind. ``missing_blocks``: those of an adapter, 0 when it is in HBM
        or on its way."""
        self._blocks_to_compute = blocks_to_compute
        self._missing_blocks = missing_blocks
        self._max_pass_s = max_pass_s
        self._max_scan = max_scan
        # Those who wait, by adapter, with the blocks that each has to compute once they are known.
        self._waiting: dict[str | None, dict[Sequence, int | None]] = {}

    def order(self, waiting: deque[Sequence], now_s: float) -> Iterable[Sequence]:
        """Looks at the ``max_scan`` requests that came first."""
        first, rest = split_by_patience(islice(waiting, self._max_scan), now_s, self._max_pass_s)
        if len(rest) < 2:
            return [*first, *rest]
        shares = {adapter: self._missing_blocks(adapter) / len(group) for adapter, group in self._waiting.items()}

        def seconds_per_block(sequence: Sequence) -> float:
            blocks = self._blocks_of(sequence) + shares[sequence.adapter_id]
            return (now_s - sequence.record.arrival_s) / blocks

        return [*first, *sorted(rest, key=seconds_per_block, reverse=True)]

    def _blocks_of(self, sequence: Sequence) -> int:
        group = self._waiting[sequence.adapter_id]
        blocks = group[sequence]
        if blocks is None:
            blocks = group[sequence] = self._blocks_to_compute(sequence)
        return blocks

    def joined(self, sequence: Sequence) -> None:
        self._waiting.setdefault(sequence.adapter_id, {})[sequence] = None

    def admitted(self, sequence: Sequence) -> None:
        self._forget(sequence)

    def left(self, sequence: Sequence) -> None:
        self._forget(sequence)
        group = self._waiting.get(sequence.adapter_id, {})
        group.update(dict.fromkeys(group))

    def _forget(self, sequence: Sequence) -> None:
        group = self._waiting.get(sequence.adapter_id, {})
        group.pop(sequence, None)
        if not group:
            self._waiting.pop(sequence.adapter_id, None)
