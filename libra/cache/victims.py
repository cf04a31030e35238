"""Who leaves a tier next: candidates in ascending score, children before parents."""

import heapq
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from libra.cache.policy import Indices, Scores
from libra.cache.tree import DependencyTree

# How many candidates are sorted at once; the rest stay partitioned until they are needed.
RUN_LENGTH = 256

Rank = tuple[float, int, int]  # score, minus depth, node: ties go to the deeper node, then to the lower index


class VictimOrder:
    """Candidates ranked once and taken in batches.

    ``children`` counts what keeps a node from leaving: only nodes without may go, unless ``exempt``. ``eligible`` is
    asked when a node's turn comes, so one that was pinned, used or moved since the ranking is passed over; a parent
    whose last child leaves joins with the score it was given.

    Scores age: the owner makes a new order every swapper interval, as the paper re-evaluates every 100 ms.
    """

    def __init__(
        self,
        tree: DependencyTree,
        nodes: Indices,
        scores: Scores,
        children: Literal["children", "hbm_children"],
        exempt: npt.NDArray[np.bool_],
        eligible: Callable[[int], bool],
        made_s: float,
    ) -> None:
        """``nodes``, ``scores`` and ``exempt`` go together; ``children`` names a column of the tree, which may grow."""
        self.made_s = made_s
        self._tree = tree
        self._children = children
        self._eligible = eligible
        self._exempt = set(nodes[exempt].tolist())
        self._scores = np.full(tree.capacity, np.nan)
        self._scores[nodes] = scores
        self._unsorted = nodes[exempt | (getattr(tree, children)[nodes] == 0)]
        self._run: list[Rank] = []
        self._next = 0
        self._joined: list[Rank] = []

    def take(self, num_blocks: int, sizes: npt.NDArray[np.int32]) -> list[int]:
        """The next victims, in order, until they hold ``num_blocks`` by ``sizes`` or one of them is an adapter.

        The caller makes them leave before it asks again. Empty when no candidate is left.
        """
        tree, gained = self._tree, 0
        victims: dict[int, None] = {}
        leaving_children: dict[int, int] = {}
        while gained < num_blocks:
            node = self._pop(leaving_children)
            if node is None:
                break
            if node in victims:  # a parent joins once for each child that leaves
                continue
            victims[node] = None
            gained += int(sizes[node])
            if tree.is_adapter[node]:
                break
            if node not in self._exempt:
                parent = int(tree.parent[node])
                leaving_children[parent] = leaving_children.get(parent, 0) + 1
                if parent < len(self._scores) and not math.isnan(self._scores[parent]):
                    heapq.heappush(self._joined, self._rank(parent))
        return list(victims)

    def _pop(self, leaving_children: dict[int, int]) -> int | None:
        children: npt.NDArray[np.int32] = getattr(self._tree, self._children)
        while True:
            if self._next >= len(self._run):
                self._sort_run()
            run_is_over = self._next >= len(self._run)
            if run_is_over and not self._joined:
                return None
            if run_is_over or (self._joined and self._joined[0] < self._run[self._next]):
                node = heapq.heappop(self._joined)[2]
            else:
                node = self._run[self._next][2]
                self._next += 1
            is_leaf = children[node] == leaving_children.get(node, 0) or node in self._exempt
            if is_leaf and self._eligible(node):
                return node

    def _rank(self, node: int) -> Rank:
        return (float(self._scores[node]), -int(self._tree.depth[node]), node)

    def _sort_run(self) -> None:
        """Sorts the lowest of the candidates that no run has held yet."""
        nodes, scores = self._unsorted, self._scores[self._unsorted]
        if len(nodes) > RUN_LENGTH:
            # What ties with the boundary belongs to the run too, or ties would fall by partition order.
            lowest = scores <= np.partition(scores, RUN_LENGTH)[RUN_LENGTH]
            self._unsorted = nodes[~lowest]
            nodes, scores = nodes[lowest], scores[lowest]
        else:
            self._unsorted = nodes[:0]
        depth = self._tree.depth[nodes]
        order = np.lexsort((nodes, -depth, scores))
        self._run = list(zip(scores[order].tolist(), (-depth[order]).tolist(), nodes[order].tolist(), strict=True))
        self._next = 0
