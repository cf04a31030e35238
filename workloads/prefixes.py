"""How much of each prompt an infinite cache would hold: the upper bound of every policy's hit rate on a trace."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

from libra.request import Request
from libra.spec import DEFAULT_BLOCK_TOKENS
from workloads.garbage import collection_paused


@dataclass(frozen=True)
class PrefixHits:
    """Prompt tokens in all, and those found in full blocks that an earlier request of the same adapter computed."""

    prompt_tokens: int
    hit_tokens: int

    @property
    def rate(self) -> float:
        return self.hit_tokens / self.prompt_tokens


@collection_paused()
def infinite_cache_hits(requests: Iterable[Request], block_tokens: int = DEFAULT_BLOCK_TOKENS) -> PrefixHits:
    """Prefix hits with (adapter, block) keys when nothing is ever evicted and every request ends before the next.

    Blocks of ``block_tokens`` are matched by the names of their segments, not their tokens, which is exact as long as
    one text is always cut into the same segments; the last prompt token is never a hit, since it must be computed.
    """
    trie = _PrefixTrie()
    prompt_tokens = hit_tokens = 0
    for request in requests:
        length = request.num_prompt_tokens
        matched = min(trie.match_and_insert(request, block_tokens), length - 1)
        prompt_tokens += length
        hit_tokens += matched - matched % block_tokens
    return PrefixHits(prompt_tokens, hit_tokens)


class _PrefixTrie:
    """A node stands for a whole prefix; an edge is a piece of text and remembers the longest cut of it seen there."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[int, Hashable], int] = {}
        self._children: dict[tuple[int, Hashable, int], int] = {}
        self._roots: dict[str | None, int] = {}
        self._num_nodes = 0

    def match_and_insert(self, request: Request, block_tokens: int) -> int:
        """Prompt tokens matched from the start. Mutates the trie: adds the prompt and the recorded answer."""
        node = self._roots.setdefault(request.adapter, self._num_nodes)
        self._num_nodes += node == self._num_nodes
        matched, matching = 0, True
        for text, length in _prompt_pieces(request, block_tokens):
            known = self._lengths.get((node, text), 0)
            if matching:
                matched += min(known, length)
                matching = known >= length
            node = self._descend(node, text, length, known)
        if request.output is not None:
            edge = (request.output, 0)
            self._descend(node, edge, request.output_tokens, self._lengths.get((node, edge), 0))
        return matched

    def _descend(self, node: int, text: Hashable, length: int, known: int) -> int:
        if length > known:
            self._lengths[node, text] = length
        child = self._children.setdefault((node, text, length), self._num_nodes)
        self._num_nodes += child == self._num_nodes
        return child


def _prompt_pieces(request: Request, block_tokens: int) -> Iterator[tuple[Hashable, int]]:
    """(text, tokens) from the start: segments by name and start, explicit token ids block by block."""
    for segment in request.prompt:
        yield (segment.id, segment.start), segment.length
    tokens = request.prompt_token_ids or ()
    for start in range(0, len(tokens), block_tokens):
        block = tokens[start : start + block_tokens]
        yield block, len(block)
