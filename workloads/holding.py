"""When tokens are held: the union over time of the requests that hold a prefix, each prefix counted once."""

from dataclasses import dataclass

import numpy as np

from workloads.arrivals import FloatArray, IntArray
from workloads.columns import AnyIntArray
from workloads.prefixes import PrefixTree, highest_before


@dataclass(frozen=True)
class Held:
    """Intervals [from_s, until_s) in which some request of ``adapter`` holds ``tokens``; those of one text and one
    prefix do not overlap. Texts that a request begins to hold at once share an interval."""

    adapter: IntArray
    tokens: IntArray
    from_s: FloatArray
    until_s: FloatArray


def held_intervals(tree: PrefixTree, until_s: FloatArray, prompts_only: bool = False) -> Held:
    """What is held when every request holds its pieces from its arrival to ``until_s``, shape [requests].

    ``prompts_only`` leaves out the pieces that begin in an answer. A text cut at several lengths counts at the longest.
    """
    columns = tree.columns
    # The latest end before each piece along its edge, by the rank of the ends: what it adds begins there.
    ends, rank = np.unique(until_s, return_inverse=True)
    ends_from_none = np.concatenate([[-np.inf], ends])
    begin = np.zeros(columns.num_requests, dtype=np.int64)
    intervals = _Intervals(columns.num_requests)
    for depth, (owner, edge) in enumerate(tree.levels):
        tokens = tree.tokens(depth)
        if prompts_only:
            kept = begin[owner] < columns.prompt_tokens[owner]
            begin[owner] += tokens
            owner, edge, tokens = owner[kept], edge[kept], tokens[kept]
        before = highest_before(edge, rank[owner] + 1)
        from_s = np.maximum(columns.arrival_s[owner], ends_from_none[before])
        runs = np.flatnonzero(np.diff(edge, prepend=-1))
        longest = np.maximum.reduceat(tokens, runs) if len(runs) else np.empty(0, dtype=np.int64)
        adds = from_s < until_s[owner]
        intervals.add(owner[adds], from_s[adds], np.repeat(longest, np.diff(runs, append=len(edge)))[adds])
    holder, since_s, held = intervals.all()
    return Held(columns.adapter[holder], held, since_s, until_s[holder])


class _Intervals:
    """Adds up the tokens of one request from one time on: of a long history that is one interval, not one a piece."""

    def __init__(self, num_requests: int) -> None:
        self._from_s = np.full(num_requests, -np.inf)
        self._tokens = np.zeros(num_requests, dtype=np.int64)
        self._done: list[tuple[AnyIntArray, FloatArray, IntArray]] = []

    def add(self, owner: AnyIntArray, from_s: FloatArray, tokens: IntArray) -> None:
        """``owner`` names each request once at most."""
        self._close(owner[from_s != self._from_s[owner]])
        self._from_s[owner] = from_s
        self._tokens[owner] += tokens

    def all(self) -> tuple[IntArray, FloatArray, IntArray]:
        """(request, from, tokens) of every interval."""
        self._close(np.arange(len(self._tokens)))
        owner, from_s, tokens = (np.concatenate(column) for column in zip(*self._done, strict=True))
        return owner, from_s, tokens

    def _close(self, owner: AnyIntArray) -> None:
        owner = owner[self._tokens[owner] > 0]
        self._done.append((owner, self._from_s[owner], self._tokens[owner]))
        self._tokens[owner] = 0
