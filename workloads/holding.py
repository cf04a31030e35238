"""When tokens are held: the union over time of the requests that hold a prefix, each prefix counted once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workloads.arrivals import FloatArray, IntArray
from workloads.prefixes import PrefixTree, highest_before

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Held:
    """Intervals [from_s, until_s) in which some request of ``adapter`` holds ``tokens``; those of one text and one
    prefix do not overlap."""

    adapter: IntArray
    tokens: IntArray
    from_s: FloatArray
    until_s: FloatArray


def held_intervals(tree: PrefixTree, until_s: FloatArray, pieces: BoolArray | None = None) -> Held:
    """What is held when every request holds its pieces from its arrival to ``until_s``, shape [requests].

    ``pieces`` restricts this to some pieces. A text cut at several lengths counts at the longest.
    """
    columns, order, edge = tree.columns, tree.order, tree.edge
    if pieces is not None:
        kept = pieces[order]
        order, edge = order[kept], edge[kept]
    owner = columns.piece_owner[order]
    # The latest end before each piece along its edge, by the rank of the ends: what it adds begins there.
    ends, rank = np.unique(until_s, return_inverse=True)
    before = highest_before(edge, rank[owner] + 1)
    from_s = np.maximum(columns.arrival_s[owner], np.concatenate([[-np.inf], ends])[before])
    until_s = until_s[owner]
    runs = np.flatnonzero(np.diff(edge, prepend=-1))
    longest = np.maximum.reduceat(columns.piece_tokens[order], runs) if len(runs) else np.empty(0, dtype=np.int64)
    tokens = np.repeat(longest, np.diff(runs, append=len(edge)))
    adds = from_s < until_s
    return Held(columns.adapter[owner][adds], tokens[adds], from_s[adds], until_s[adds])
