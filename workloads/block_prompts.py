"""Prompts of sources that record hashes of their blocks: equal hashes are equal tokens."""

from collections.abc import Sequence
from typing import Any

from libra.request import Segment
from workloads.rows import FieldFault


class BlockPrompts:
    """Makes prompts of blocks of ``block_tokens`` tokens each; keeps one segment per block, however often it stands."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._segments: dict[str, Segment] = {}

    def prompt(self, blocks: Sequence[str], prompt_tokens: int, rest: str) -> tuple[Segment, ...]:
        """A prompt of the full blocks named in ``blocks``, and a text named ``rest`` for the tokens after the last.

        Blocks past the prompt's end are left out. A partial last block that is hashed as well should be the ``rest``.
        """
        full = min(len(blocks), prompt_tokens // self._block_tokens)
        segments = [self._segment(block) for block in blocks[:full]]
        left = prompt_tokens - full * self._block_tokens
        return (*segments, Segment(rest, 0, left)) if left else tuple(segments)

    def _segment(self, block: str) -> Segment:
        known = self._segments.get(block)
        if known is None:
            known = self._segments[block] = Segment(block, 0, self._block_tokens)
        return known


def hash_list(row: dict[str, Any], field: str) -> list[int]:
    """A list of block hashes. Raises FieldFault."""
    blocks = row.get(field)
    if type(blocks) is not list or any(type(block) is not int for block in blocks):
        raise FieldFault(field, "must be a list of integers")
    return blocks
