"""How many blocks the admitted requests and their adapters will hold together at most, if nobody is preempted.

S-LoRA's admission test (router/req_queue.py): with requests sorted by what they have left to decode, most first, when
the j-th of them ends, the first j hold their present tokens and as many more each as it has decoded since.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection
from itertools import accumulate

from libra.engine.sequence import Sequence


class OutputPeak:
    """The peak of ``admitted`` as they stand now, made ready so that one more request is judged in O(log n).

    With request c put at place p of the order, those before p keep their sums, and those from p on are one place
    further back, beside what c holds.
    """

    def __init__(
        self, admitted: Collection[Sequence], block_tokens: int, adapter_blocks: Callable[[str | None], int]
    ) -> None:
        """``adapter_blocks``: how much of the room of KV an adapter takes."""
        self._block_tokens = block_tokens
        self._adapter_blocks = adapter_blocks
        self._adapters = {one.adapter_id for one in admitted}
        self._taken = sum(map(adapter_blocks, self._adapters))
        self._num_tokens = _all_tokens(admitted)
        ranked = sorted(admitted, key=_minus_left)
        self._order = [_minus_left(one) for one in ranked]
        self._held = list(accumulate((self._blocks(one.num_tokens) for one in ranked), initial=0))
        growths = [self._blocks(-left) for left in self._order]
        peaks = [held + growth * j for j, (held, growth) in enumerate(zip(self._held[1:], growths, strict=True), 1)]
        pushed = [peak + growth for peak, growth in zip(peaks, growths, strict=True)]
        # Highest of the places before p, and from p on when they are pushed back by one.
        self._highest_before = list(accumulate(peaks, max, initial=0))
        self._highest_from = list(accumulate(reversed(pushed), max, initial=0))[::-1]

    def is_of(self, admitted: Collection[Sequence]) -> bool:
        """Whether it still holds for ``admitted``, if these are the same requests: they only ever get longer."""
        return self._num_tokens == _all_tokens(admitted)

    def blocks_with(self, sequence: Sequence) -> int:
        """The peak when ``sequence`` is admitted too."""
        left = _minus_left(sequence)
        place = bisect_right(self._order, left)
        held = self._blocks(sequence.num_tokens)
        own = self._held[place] + held + self._blocks(-left) * (place + 1)
        behind = self._highest_from[place] + held if place < len(self._order) else 0
        adapter = sequence.adapter_id
        taken = self._taken + (0 if adapter in self._adapters else self._adapter_blocks(adapter))
        return max(self._highest_before[place], own, behind) + taken

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_tokens)


def _minus_left(sequence: Sequence) -> int:
    """Minus the tokens that ``sequence`` has left to decode."""
    return sequence.num_tokens - sequence.max_tokens


def _all_tokens(sequences: Collection[Sequence]) -> int:
    return sum([sequence.num_tokens for sequence in sequences])
