"""Who leaves a tier next: candidates in ascending score, children before parents."""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat

import numpy as np
import numpy.typing as npt

from libra.cache.policy import Indices, Scores
from libra.cache.tree import ABSENT, PRESENT, ROOT, DependencyTree

# How many candidates are sorted at first, and how many times more each time after that; the rest stays unsorted until
# it is needed. Most ticks take few.
RUN_LENGTH = 16
RUN_GROWTH = 4
# How many ancestors of a parent that has become a leaf are scored along with it.
LINEAGE_LENGTH = 8

Rank = tuple[int, float, int, int]  # group, score, minus depth, node: ties go to the deeper node, then the lower index
Score = Callable[[Indices], Scores]


class VictimOrder(ABC):
    """Candidates ranked once and taken in batches.

    Only leaves may go (``_children``), unless exempt; so those alone are scored at first, and their ancestors when they
    become leaves. ``_eligible`` is asked when a node's turn comes, so one that was pinned, used or moved since is
    passed over.

    Scores age: the owner makes a new order every swapper interval, as the paper re-evaluates every 100 ms.
    """

    def __init__(self, tree: DependencyTree, candidates: Indices, score: Score, made_s: float) -> None:
        """``candidates``: the nodes that may leave before any other has. ``score``: any node's, as of ``made_s``."""
        self.made_s = made_s
        self._tree = tree
        self._score = score
        self._runs = self._sorted_runs(candidates)
        self._run: list[Rank] = []
        self._next = 0
        self._joined: list[Rank] = []
        self._lineage_scores: dict[int, tuple[float, int]] = {}

    @abstractmethod
    def _children(self) -> npt.NDArray[np.int32]:
        """The column of the tree that counts what keeps a node from leaving."""

    @abstractmethod
    def _is_exempt(self, node: int) -> bool:
        """Whether ``node`` may leave before its children."""

    @abstractmethod
    def _eligible(self, node: int) -> bool:
        """Whether ``node``, if it is a leaf, may leave now."""

    def _groups(self, nodes: Indices) -> list[Indices]:
        """``nodes`` in groups; all of a group leave before any of the next, whatever their scores."""
        return [nodes]

    def _group(self, node: int) -> int:
        """Which group ``node`` is in now."""
        return 0

    def take(self, num_blocks: int, sizes: npt.NDArray[np.int32]) -> list[int]:
        """The next victims, in order, until they hold ``num_blocks`` by ``sizes`` or one of them is an adapter.

        The caller makes them leave before it asks again. Empty when no candidate is left.
        """
        # One node at a time: ``item`` reads a number in a third of the time that indexing takes.
        gained, size_of, children_of = 0, sizes.item, self._children().item
        parent_of, is_adapter = self._tree.parent.item, self._tree.is_adapter.item
        victims: dict[int, None] = {}
        leaving_children: dict[int, int] = {}
        while gained < num_blocks:
            rank = self._pop()
            if rank is None:
                break
            node = rank[-1]
            if node in victims:  # a parent joins once for each child that leaves
                continue
            is_exempt = self._is_exempt(node)
            if not is_exempt and children_of(node) != leaving_children.get(node, 0):
                continue
            if self._group(node) != rank[0] or not self._eligible(node):
                continue
            victims[node] = None
            gained += size_of(node)
            if is_adapter(node):
                break
            if not is_exempt:
                parent = parent_of(node)
                leaving_children[parent] = leaving_children.get(parent, 0) + 1
                heapq.heappush(self._joined, self._rank(parent))
        return list(victims)

    def _pop(self) -> Rank | None:
        """The lowest of the candidates that are left, and of the parents that have joined them."""
        if self._next == len(self._run):
            self._run, self._next = next(self._runs, []), 0
        run_is_over = self._next == len(self._run)
        if self._joined and (run_is_over or self._joined[0] < self._run[self._next]):
            return heapq.heappop(self._joined)
        if run_is_over:
            return None
        self._next += 1
        return self._run[self._next - 1]

    def _rank(self, node: int) -> Rank:
        """Where a parent stands among the rest. Its ancestors, which are likely next, are scored with it."""
        if node not in self._lineage_scores:
            lineage, parent_of = [node], self._tree.parent.item
            while len(lineage) < LINEAGE_LENGTH and (ancestor := parent_of(lineage[-1])) != ROOT:
                lineage.append(ancestor)
            nodes = np.array(lineage, dtype=np.intp)
            places = zip(self._score(nodes).tolist(), (-self._tree.depth[nodes]).tolist(), strict=True)
            self._lineage_scores.update(zip(lineage, places, strict=True))
        return (self._group(node), *self._lineage_scores[node], node)

    def _sorted_runs(self, nodes: Indices) -> Iterator[list[Rank]]:
        """The ranks of ``nodes`` in order, a run at a time. Scores are taken at once, sorting waits until it is due."""
        groups = [(members, self._score(members)) for members in self._groups(nodes)]
        return _runs(self._tree, groups)


def _runs(tree: DependencyTree, groups: list[tuple[Indices, Scores]]) -> Iterator[list[Rank]]:
    """It knows nothing of the order that reads it: an order that is done with goes without the garbage collector."""
    length = RUN_LENGTH
    for group, (rest, scores) in enumerate(groups):
        while len(rest) > length:
            # What ties with the boundary belongs to the run too, or ties would fall by partition order.
            lowest = scores <= np.partition(scores, length)[length]
            yield _sorted(tree, group, rest[lowest], scores[lowest])
            rest, scores = rest[~lowest], scores[~lowest]
            length *= RUN_GROWTH
        if len(rest):
            yield _sorted(tree, group, rest, scores)


def _sorted(tree: DependencyTree, group: int, nodes: Indices, scores: Scores) -> list[Rank]:
    depth = tree.depth[nodes]
    order = np.lexsort((nodes, -depth, scores))
    columns = (scores[order].tolist(), (-depth[order]).tolist(), nodes[order].tolist())
    return list(zip(repeat(group), *columns, strict=False))


class HbmVictims(VictimOrder):
    """Who leaves HBM: unpinned nodes without children there; without the dependency rule, any unpinned node."""

    def __init__(
        self,
        tree: DependencyTree,
        candidates: Indices,
        score: Score,
        made_s: float,
        dependency: bool,
        spared: Iterable[int] = (),
    ) -> None:
        """``spared``: nodes that leave after all others."""
        self._dependency = dependency
        self._spared = frozenset(spared)
        super().__init__(tree, candidates, score, made_s)

    def _children(self) -> npt.NDArray[np.int32]:
        return self._tree.hbm_children

    def _is_exempt(self, node: int) -> bool:
        return not self._dependency

    def _eligible(self, node: int) -> bool:
        tree = self._tree
        free = tree.hbm.item(node) == PRESENT and tree.pins.item(node) == 0
        return free and tree.last_use.item(node) <= self.made_s

    def _groups(self, nodes: Indices) -> list[Indices]:
        if not self._spared:
            return [nodes]
        spared = np.isin(nodes, list(self._spared))
        return [nodes[~spared], nodes[spared]]

    def _group(self, node: int) -> int:
        return int(node in self._spared)


class HostVictims(VictimOrder):
    """Whose host copy goes: second copies of what HBM holds first, then KV that nothing depends on, then adapters."""

    def _children(self) -> npt.NDArray[np.int32]:
        return self._tree.children

    def _is_exempt(self, node: int) -> bool:
        return bool(self._tree.hbm.item(node) == PRESENT)

    def _eligible(self, node: int) -> bool:
        tree = self._tree
        if tree.host.item(node) != PRESENT:
            return False
        hbm = tree.hbm.item(node)
        return not tree.is_adapter.item(node) if hbm == PRESENT else hbm == ABSENT and tree.pins.item(node) == 0

    def _groups(self, nodes: Indices) -> list[Indices]:
        second_copy, is_adapter = self._tree.hbm[nodes] == PRESENT, self._tree.is_adapter[nodes]
        return [nodes[second_copy], nodes[~second_copy & ~is_adapter], nodes[~second_copy & is_adapter]]

    def _group(self, node: int) -> int:
        tree = self._tree
        return 0 if tree.hbm.item(node) == PRESENT else 1 + int(tree.is_adapter.item(node))
