"""How much of each prompt an infinite cache would hold: the upper bound of every policy's hit rate on a trace."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from libra.request import Request
from libra.spec import DEFAULT_BLOCK_TOKENS
from workloads.arrivals import IntArray
from workloads.columns import AnyIntArray, TraceColumns, grouped, pair_keys, pairs, trace_columns


@dataclass(frozen=True)
class PrefixHits:
    """Prompt tokens in all, and those found in full blocks that an earlier request of the same adapter computed."""

    prompt_tokens: int
    hit_tokens: int

    @property
    def rate(self) -> float:
        return self.hit_tokens / self.prompt_tokens


class Level(NamedTuple):
    """The pieces of one depth, as 32-bit columns: ``owner`` is the request of each, and ``edge`` numbers the edges of
    the level, (adapter, prefix before, text). Sorted by edge, and along an edge by arrival."""

    owner: npt.NDArray[np.int32]
    edge: npt.NDArray[np.int32]


@dataclass(frozen=True)
class PrefixTree:
    """The pieces of a trace on the tree of prefixes, level by level: a request has one piece at most in each."""

    columns: TraceColumns
    levels: tuple[Level, ...]

    def tokens(self, depth: int) -> IntArray:
        """Tokens of the pieces of a level."""
        tokens: IntArray = self.columns.piece_tokens[self.columns.first[self.levels[depth].owner] + depth]
        return tokens


def prefix_tree(columns: TraceColumns, by_adapter: bool = True) -> PrefixTree:
    """The tree of prefixes, one for each adapter, or one for all of them where ``by_adapter`` is false."""
    num_pieces = np.diff(columns.first)
    rows = np.arange(columns.num_requests)
    prefix = columns.adapter if by_adapter else np.zeros_like(columns.adapter)
    levels = []
    for depth in range(int(num_pieces.max())):
        going_on = num_pieces[rows] > depth
        rows, prefix = rows[going_on], prefix[going_on]
        place = columns.first[rows] + depth
        order, branch = grouped(pair_keys(prefix, columns.piece_text[place]))
        levels.append(Level(rows[order].astype(np.int32), branch.astype(np.int32)))
        prefix = np.empty_like(branch)
        prefix[order] = _prefixes_after(branch, columns.piece_tokens[place[order]])
    return PrefixTree(columns, tuple(levels))


def _prefixes_after(branch: IntArray, tokens: IntArray) -> IntArray:
    """A number for the prefix that each piece ends: its branch, unless pieces there differ in length."""
    if np.all((tokens[1:] == tokens[:-1]) | (branch[1:] != branch[:-1])):
        return branch
    return pairs(branch, tokens)


def matched_tokens(tree: PrefixTree) -> IntArray:
    """Prompt tokens of each request, from the first on, that an earlier one computed when nothing is ever evicted and
    every request ends before the next. The last token is never among them, since it must be computed."""
    columns = tree.columns
    matched = np.zeros(columns.num_requests, dtype=np.int64)
    # Whether everything before this level is known: a piece counts where no earlier one is unknown in part.
    whole = np.ones(columns.num_requests, dtype=np.bool_)
    for depth, (owner, edge) in enumerate(tree.levels):
        tokens = tree.tokens(depth)
        known = highest_before(edge, tokens)
        matched[owner] += np.where(whole[owner], np.minimum(known, tokens), 0)
        whole[owner] &= known >= tokens
    found: IntArray = np.minimum(matched, columns.prompt_tokens - 1)
    return found


def block_hits(columns: TraceColumns, matched: IntArray, block_tokens: int) -> PrefixHits:
    """Prefix hits in full blocks, from the tokens that matched."""
    return PrefixHits(int(columns.prompt_tokens.sum()), int((matched - matched % block_tokens).sum()))


def infinite_cache_hits(requests: Sequence[Request], block_tokens: int = DEFAULT_BLOCK_TOKENS) -> PrefixHits:
    """Prefix hits with (adapter, block) keys when nothing is ever evicted and every request ends before the next.

    Blocks of ``block_tokens`` are matched by the names of their segments, not their tokens, which is exact as long as
    one text is always cut into the same segments.
    """
    columns = trace_columns(requests, block_tokens)
    return block_hits(columns, matched_tokens(prefix_tree(columns)), block_tokens)


def highest_before(group: AnyIntArray, value: IntArray) -> IntArray:
    """The highest value before each one in its group, 0 for the first. Groups ascend; values are 0 or more."""
    span = int(value.max(initial=0)) + 1
    highest = np.maximum.accumulate(group * span + value)
    before = np.zeros_like(value)
    same = group[1:] == group[:-1]
    before[1:][same] = (highest % span)[:-1][same]
    return before
