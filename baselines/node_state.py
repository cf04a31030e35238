"""What rankings with a memory of their own are built from: columns by node, ghosts by label."""

from abc import abstractmethod
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from libra.cache.policy import Indices, Ranker, RankingContext, Scores
from libra.cache.tree import LOADING, PRESENT, DependencyTree, Mask

Column = npt.NDArray[np.float64]


def new_column() -> Column:
    """An empty column, to be ``fitted`` before use."""
    return np.zeros(0)


def fitted(column: Column, tree: DependencyTree, fill: float = 0.0) -> Column:
    """``column`` long enough for every node of ``tree``; new entries are ``fill``."""
    missing = tree.capacity - len(column)
    return np.concatenate([column, np.full(missing, fill)]) if missing > 0 else column


def in_hbm(tree: DependencyTree) -> Mask:
    """Mask of the nodes that HBM holds or is about to."""
    mask: Mask = ((tree.hbm == PRESENT) | (tree.hbm == LOADING)) & (tree.size > 0)
    return mask


def blocks_of(tree: DependencyTree, mask: Mask) -> int:
    """Blocks that the nodes of ``mask`` take in HBM."""
    return int(tree.size[mask].sum())


def oldest(tree: DependencyTree, mask: Mask, ages: Column, num_blocks: float) -> float:
    """The value of ``ages`` up to which the nodes of ``mask`` hold ``num_blocks`` or just more; -inf for none."""
    if num_blocks <= 0:
        return -np.inf
    nodes = np.flatnonzero(mask)
    order = np.argsort(ages[nodes], kind="stable")
    held = np.cumsum(tree.size[nodes][order])
    last = int(np.searchsorted(held, num_blocks))
    return float(ages[nodes][order[min(last, len(nodes) - 1)]]) if len(nodes) else -np.inf


class HbmRanker(Ranker):
    """A ranking that was made for one cache and so rules HBM alone: in host memory, which the original does not know,
    and in what comes back from there ahead of need, the least recently used goes first or comes last."""

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        if context.tier == "host" or context.swap == "in":
            return tree.last_use[nodes]
        return self.victim_score(tree, nodes, context)

    @abstractmethod
    def victim_score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        """Scores of nodes that could leave HBM; the lowest leaves first. Independent of who is asked about together."""


class Ghosts:
    """Labels of nodes that have left, oldest first, with their sizes in blocks."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self.num_blocks = 0

    def __contains__(self, label: int) -> bool:
        return label in self._sizes

    def add(self, label: int, size: int) -> None:
        """Remembers ``label`` as the youngest."""
        self.discard(label)
        self._sizes[label] = size
        self.num_blocks += size

    def discard(self, label: int) -> bool:
        """Forgets ``label``; False when it was not there."""
        size = self._sizes.pop(label, None)
        self.num_blocks -= size or 0
        return size is not None

    def shrink_to(self, num_blocks: float) -> None:
        """Forgets the oldest until the rest held no more than ``num_blocks``."""
        while self._sizes and self.num_blocks > num_blocks:
            self.discard(next(iter(self._sizes)))


def labels_and_sizes(tree: DependencyTree, nodes: Indices) -> Iterable[tuple[int, int]]:
    """(label, size in blocks) of each of ``nodes``."""
    return zip((tree.labels[node] for node in nodes.tolist()), tree.size[nodes].tolist(), strict=True)
