"""Who leaves a tier next: candidates in ascending score, taken one by one."""

import heapq
from collections.abc import Callable

import numpy as np

from libra.cache.policy import Indices, Scores
from libra.cache.tree import DependencyTree

# How many candidates are sorted at once; the rest stay partitioned until they are needed.
RUN_LENGTH = 256

Rank = tuple[float, int, int]  # score, minus depth, node: ties go to the deeper node, then to the lower index


class VictimOrder:
    """Candidates ranked once. ``eligible`` is asked again when a node's turn comes, so a node that was pinned, used or
    moved since is passed over; a parent that becomes a leaf joins with the score it was given.

    Scores age: the owner makes a new order every swapper interval, as the paper re-evaluates every 100 ms.
    """

    def __init__(
        self,
        tree: DependencyTree,
        nodes: Indices,
        scores: Scores,
        ready: np.ndarray[tuple[int], np.dtype[np.bool_]],
        eligible: Callable[[int], bool],
        made_s: float,
    ) -> None:
        """``nodes`` may leave sooner or later; those where ``ready`` holds may leave now, the others after ``left``."""
        self.made_s = made_s
        self._tree = tree
        self._eligible = eligible
        self._scores = np.full(tree.capacity, np.nan)
        self._scores[nodes] = scores
        self._unsorted = nodes[ready]
        self._run: list[Rank] = []
        self._next = 0
        self._joined: list[Rank] = []

    def next_victim(self) -> int | None:
        """The eligible node of lowest score, or None. It is taken: the caller evicts it and calls ``left``."""
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
            if self._eligible(node):
                return node

    def left(self, node: int) -> None:
        """``node`` has left the tier: its parent may follow."""
        parent = int(self._tree.parent[node])
        if parent < len(self._scores) and not np.isnan(self._scores[parent]):
            heapq.heappush(self._joined, self._rank(parent))

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
