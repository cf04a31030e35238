"""vLLM's block pool, written from its rules (v1/core/block_pool.py, 0.32) for requests served one at a time.

A free block waits in one queue, whether it is cached or not; blocks are taken from its head. When a request ends, its
blocks go back, the last first: those that hold a full, hashed block at the tail, the others at the head. A hit takes a
block out of the queue. Equal blocks are not merged.
"""

from collections.abc import Sequence

from libra.request import Request

Key = tuple[object, ...]


class BlockPool:
    """``num_blocks`` usable blocks of ``block_size`` tokens."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._queue = list(range(num_blocks))
        self._size = block_size
        self._cached: dict[Key, list[int]] = {}
        self._key_of: dict[int, Key] = {}

    def serve(self, request: Request) -> int:
        """Serves one request and returns how many of its prompt tokens were cached."""
        prompt, output = request.prompt_token_ids or (), request.output_token_ids or ()
        tokens = (*prompt, *output)[:-1]
        table: list[int] = []
        while len(table) < (len(prompt) - 1) // self._size and self._key(request, tokens, len(table)) in self._cached:
            block = self._cached[self._key(request, tokens, len(table))][0]
            self._queue.remove(block)
            table.append(block)
        hit = len(table) * self._size
        for length in (len(prompt), *range(len(prompt) + 1, len(tokens) + 1)):
            while len(table) * self._size < length:
                table.append(self._take())
            for position in range(length // self._size):
                self._enter(self._key(request, tokens, position), table[position])
        self._queue[:0] = [block for block in reversed(table) if block not in self._key_of]
        self._queue += [block for block in reversed(table) if block in self._key_of]
        return hit

    def _key(self, request: Request, tokens: Sequence[int], position: int) -> Key:
        return (request.adapter, *tokens[: (position + 1) * self._size])

    def _take(self) -> int:
        block = self._queue.pop(0)
        key = self._key_of.pop(block, None)
        if key is not None:
            self._cached[key].remove(block)
            if not self._cached[key]:
                del self._cached[key]
        return block

    def _enter(self, key: Key, block: int) -> None:
        if block not in self._key_of:
            self._key_of[block] = key
            self._cached.setdefault(key, []).append(block)
