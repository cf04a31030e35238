"""FASTLIBRA's swapper: keeps HBM use between two watermarks (paper 0.1)."""

import heapq
import math

import numpy as np

from libra.cache.memory import ADAPTER, KINDS, KV, CacheMemory, Kind
from libra.cache.policy import Indices, SwapperConfig
from libra.cache.tree import ABSENT, PRESENT
from libra.engine.link import Direction, Priority


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

        Adapters in HBM are counted anew after each adapter; a node's children become candidates once it is on its way.
        """
        memory, tree = self.memory, self.memory.tree
        budget = memory.link.bytes_per_s(Direction.IN) * self.config.tick_s
        on_host = (tree.host == PRESENT) & (tree.hbm == ABSENT) & tree.in_use
        if memory.hbm.is_split:
            on_host &= tree.is_adapter == (kind == ADAPTER)
        frontier_mask = tree.host_frontier() & on_host
        if not memory.policy.dependency:
            # KV whose adapter or prefix is away would be of no use.
            frontier_mask &= tree.usable_in_hbm()[tree.parent]
        frontier = self._ranked(np.flatnonzero(frontier_mask))
        chosen: list[int] = []
        while frontier:
            node = heapq.heappop(frontier)[2]
            size, num_bytes = int(tree.size[node]), int(tree.num_bytes[node])
            if num_bytes > budget:
                break
            if size > room:
                continue
            room, budget = room - size, budget - num_bytes
            if tree.is_adapter[node]:
                memory.load([node], Priority.PREFETCH)
                if memory.ranker.depends_on_adapter_count:
                    frontier = self._ranked(np.array([rank[2] for rank in frontier], dtype=np.intp))
            else:
                chosen.append(node)
            for rank in self._ranked(np.flatnonzero((tree.parent == node) & on_host)):
                heapq.heappush(frontier, rank)
        if chosen:
            memory.load(chosen, Priority.PREFETCH)

    def _ranked(self, nodes: Indices) -> list[tuple[float, int, int]]:
        """A heap, highest score first, then nearest the root, then lowest index."""
        if len(nodes) == 0:
            return []
        tree = self.memory.tree
        scores = self.memory.ranker.score(tree, nodes, self.memory.context("in"))
        heap = list(zip((-scores).tolist(), tree.depth[nodes].tolist(), nodes.tolist(), strict=True))
        heapq.heapify(heap)
        return heap


def _free_blocks_at(watermark: float, total: int) -> int:
    """Blocks of ``total`` that are free when use stands at ``watermark``. Rounded, so that 0.7 of 20 is 14 and not 13."""
    return total - math.floor(round(watermark * total, 6))
