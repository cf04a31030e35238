"""Nodes that meet a condition which few meet, kept in a list: nobody need look through the whole tree for them."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from libra.cache.policy import Indices


class Candidates:
    """Whoever makes a node meet the condition calls ``add``; a node that no longer does is dropped when the list is
    read. So reading costs what is left and what has been added since, not the size of the tree."""

    # Additions that nobody reads are looked through when there are as many as nodes, and at least so many.
    FEWEST_UNREAD = 1024

    def __init__(self, meets: Callable[[Indices], npt.NDArray[np.bool_]]) -> None:
        """``meets``: which of the nodes meet the condition now."""
        self._meets = meets
        self._nodes = np.empty(0, dtype=np.intp)
        self._added: list[int] = []

    def add(self, nodes: Iterable[int]) -> None:
        """Notes nodes that may meet the condition from now on; those that do not cost little."""
        self._added += nodes
        if len(self._added) > max(len(self._nodes), self.FEWEST_UNREAD):
            self.read()

    def read(self) -> Indices:
        """The nodes that meet the condition, ascending."""
        nodes = self._nodes
        if self._added:
            nodes = np.concatenate([nodes, np.array(self._added, dtype=np.intp)])
            self._added.clear()
            nodes.sort(kind="stable")  # next to nothing to do where all but the tail is sorted
            is_new = np.ones(len(nodes), dtype=np.bool_)
            np.not_equal(nodes[1:], nodes[:-1], out=is_new[1:])
            nodes = nodes[is_new]
        self._nodes = nodes[self._meets(nodes)]
        return self._nodes
