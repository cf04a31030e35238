"""FASTLIBRA's swapper: keeps HBM use between two watermarks (arXiv 2505.03756)."""

import heapq
import math

import numpy as np

from libra.cache.memory import ADAPTER, KINDS, KV, CacheMemory, Kind
from libra.cache.policy import Indices, Scores, SwapperConfig
from libra.cache.tree import ABSENT, LOADING, PRESENT, DependencyTree, Mask
from libra.engine.link import Direction, Priority

# How many candidates are sorted at once: about what a fast link moves in an interval.
RUN_LENGTH = 1024

Rank = tuple[float, int, int]  # minus score, depth, node


class Swapper:
    """Called every ``config.tick_s``. Evicts above the high watermark, prefetches below the low one."""

    def __init__(self, memory: CacheMemory, config: SwapperConfig) -> None:
        self.memory = memory
        self.config = config

    def tick(self) -> None:
        """Starts this interval's swaps. In a split pool each region keeps its own watermarks."""
        kinds: tuple[Kind, ...] = KINDS if self.memory.hbm.is_split else (KV,)
        for kind in kinds:
            self._keep_between_watermarks(kind)

    def _keep_between_watermarks(self, kind: Kind) -> None:
        memory = self.memory
        total = memory.region(kind).num_blocks
        # Blocks whose save is in flight count as free: they were dealt with at an earlier tick.
        soon_free = memory.soon_free_blocks(kind)
        to_free = _free_blocks_at(self.config.high, total) - soon_free
        if to_free > 0:
            evictable = memory.obtainable_blocks(kind) - soon_free
            memory.evict(kind, min(to_free, evictable))
        elif self.config.prefetch:
            room = min(soon_free - _free_blocks_at(self.config.low, total), memory.free_blocks(kind))
            if room > 0:
                self._prefetch(kind, room)

    def _prefetch(self, kind: Kind, room: int) -> None:
        """Brings in host nodes whose parent is in HBM, best first, within ``room`` blocks and one interval's link time.

        What is still on its way from earlier ticks takes its part of that time. A node that is larger than an interval
        comes when nothing else is on its way. Adapters in HBM are counted anew after each adapter that comes.
        """
        memory, tree = self.memory, self.memory.tree
        ahead = [node for node in memory.loading if tree.prefetched[node]]
        on_its_way = int(tree.num_bytes[ahead].sum()) if ahead else 0
        budget = memory.link.bytes_per_s(Direction.IN) * self.config.tick_s - on_its_way
        while nodes := self._best_on_host(kind, room, budget, link_is_idle=on_its_way == 0):
            memory.load(nodes, Priority.PREFETCH)
            room -= int(tree.size[nodes].sum())
            on_its_way += int(tree.num_bytes[nodes].sum())
            budget -= int(tree.num_bytes[nodes].sum())
            if not tree.is_adapter[nodes[-1]]:
                return

    def _best_on_host(self, kind: Kind, room: int, budget: float, link_is_idle: bool) -> list[int]:
        """What to bring in within ``room`` blocks and ``budget`` bytes, in order; ends with the first adapter."""
        memory, tree = self.memory, self.memory.tree
        on_host = (tree.host == PRESENT) & (tree.hbm == ABSENT) & tree.in_use
        if memory.hbm.is_split:
            on_host &= tree.is_adapter == (kind == ADAPTER)
        nodes = np.flatnonzero(on_host)
        if len(nodes) == 0:
            return []
        order = ArrivalOrder(tree, nodes, memory.scores("in")(nodes), self._reachable())
        chosen: list[int] = []
        while room > 0 and (node := order.next_arrival()) is not None:
            size, num_bytes = int(tree.size[node]), int(tree.num_bytes[node])
            if num_bytes > budget and (chosen or not link_is_idle):
                break
            if size > room:
                continue
            room, budget = room - size, budget - num_bytes
            chosen.append(node)
            if tree.is_adapter[node]:
                break
            order.arrived(node)
        return chosen

    def _reachable(self) -> Mask:
        """Mask of the nodes below which KV is of use: in HBM, and with all their ancestors."""
        tree = self.memory.tree
        if not self.memory.policy.dependency:
            return tree.usable_in_hbm()
        reachable: Mask = (tree.hbm == PRESENT) | (tree.hbm == LOADING)
        return reachable


class ArrivalOrder:
    """Nodes that only host memory holds, highest score first, then nearest the root, then lowest index. A node whose
    parent is away comes after its parent has arrived."""

    def __init__(self, tree: DependencyTree, nodes: Indices, scores: Scores, reachable: Mask) -> None:
        """``nodes`` and ``scores`` go together; ``reachable`` marks the nodes whose children may come at once."""
        self._tree = tree
        self._nodes, self._scores = nodes, scores
        self._reachable = reachable
        self._sorted: list[Rank] = []
        self._next = 0
        self._joined: list[Rank] = []
        self._held_back: dict[int, list[Rank]] = {}

    def next_arrival(self) -> int | None:
        """The best node that may come in, or None. The caller tells ``arrived`` when it takes the node."""
        while True:
            if self._next >= len(self._sorted):
                self._sort_run()
            run_is_over = self._next >= len(self._sorted)
            if run_is_over and not self._joined:
                return None
            if run_is_over or (self._joined and self._joined[0] < self._sorted[self._next]):
                return heapq.heappop(self._joined)[2]
            rank = self._sorted[self._next]
            self._next += 1
            parent = int(self._tree.parent[rank[2]])
            if self._reachable[parent]:
                return rank[2]
            self._held_back.setdefault(parent, []).append(rank)

    def arrived(self, node: int) -> None:
        """The children of ``node`` may follow."""
        self._reachable[node] = True
        for rank in self._held_back.pop(node, ()):
            heapq.heappush(self._joined, rank)

    def _sort_run(self) -> None:
        """Sorts the best of the nodes that no run has held yet."""
        nodes, scores = self._nodes, self._scores
        best = np.ones(len(nodes), dtype=np.bool_)
        if len(nodes) > RUN_LENGTH:
            best = scores >= np.partition(scores, -RUN_LENGTH)[-RUN_LENGTH]
        self._nodes, self._scores = nodes[~best], scores[~best]
        depth = self._tree.depth[nodes[best]]
        order = np.lexsort((nodes[best], depth, -scores[best]))
        ranks = (-scores[best][order], depth[order], nodes[best][order])
        self._sorted = list(zip(*(column.tolist() for column in ranks), strict=True))
        self._next = 0


def _free_blocks_at(watermark: float, total: int) -> int:
    """Blocks of ``total`` that are free when use stands at ``watermark``. Rounded: 0.7 of 20 is 14, not 13."""
    return total - math.floor(round(watermark * total, 6))
