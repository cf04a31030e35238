"""Blocks in motion: who holds which block of which tier, and the transfers between them.

``CacheMemory`` keeps pool, tree and link in step. It evicts until a shortage is met, loads nodes, and finishes
transfers; the policy only ranks. Who asks is above it: the cache manager for requests, the swapper for watermarks.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from libra.cache.policy import CachePolicy, Indices, RankingContext, Swap
from libra.cache.pool import BlockTier, Region
from libra.cache.tree import ABSENT, LEAVING, LOADING, PRESENT, ROOT, SAVING, DependencyTree
from libra.cache.usage import DemandWindow
from libra.cache.victims import VictimOrder
from libra.clock import Clock
from libra.engine.link import Direction, Link, Priority, Transfer

Kind = Literal[0, 1]
KV: Final = 0
ADAPTER: Final = 1
KINDS: tuple[Kind, Kind] = (KV, ADAPTER)
# Blocks per save: small enough that the first freed blocks come soon, large enough to keep the link busy.
SAVE_CHUNK_BLOCKS = 16


@dataclass(slots=True)
class CacheCounters:
    """Totals over a run, in bytes or blocks as named."""

    swap_in_bytes: int = 0
    swap_out_bytes: int = 0
    adapter_in_bytes: int = 0
    prefetch_in_bytes: int = 0
    prefetch_used_bytes: int = 0
    evicted_blocks: int = 0
    dropped_kv_blocks: int = 0


class CacheMemory:
    """Both tiers, the tree over them, and the link between them.

    ``reserved`` counts free or soon-free blocks promised to requests that wait for evicted blocks to be saved.
    ``version`` grows whenever room may have appeared, so that a failed admission need not be tried again before.
    ``evictions``, when a list, receives (adapter id, label) of every node that leaves HBM, in order.
    """

    def __init__(
        self,
        policy: CachePolicy,
        hbm: BlockTier,
        host: BlockTier,
        link: Link,
        clock: Clock,
        block_bytes: int,
        interval_s: float,
    ) -> None:
        self.policy = policy
        self.ranker = policy.ranker.fresh()
        self.tree = DependencyTree(policy.visit_half_life_s)
        self.demand = DemandWindow(policy.visit_half_life_s)
        self.hbm, self.host, self.link, self.clock = hbm, host, link, clock
        self.block_bytes = block_bytes
        self.interval_s = interval_s
        self.reserved = [0, 0]
        self.version = 0
        self.counters = CacheCounters()
        self.evictions: list[tuple[str | None, int]] | None = None
        self.loading: dict[int, Transfer] = {}
        self.saving: dict[int, Transfer] = {}
        self.generations: dict[int, int] = {}
        self._load_pins: dict[Transfer, Indices] = {}
        self._orders: dict[tuple[bool, bool], VictimOrder] = {}
        self._host_order: VictimOrder | None = None

    # ---- asks ------------------------------------------------------------------------------------------------------

    def region(self, kind: Kind) -> Region:
        return self.hbm.adapter_region if kind == ADAPTER else self.hbm.kv_region

    def pooled(self, counts: list[int], kind: Kind) -> int:
        """``counts`` by kind as the region that serves ``kind`` sees them: both together in a unified pool."""
        return counts[kind] if self.hbm.is_split else counts[KV] + counts[ADAPTER]

    def free_blocks(self, kind: Kind) -> int:
        """Blocks that can be had at once, without taking what is reserved."""
        return self.region(kind).num_free - self.pooled(self.reserved, kind)

    def soon_free_blocks(self, kind: Kind) -> int:
        """Free now or when the saves in flight end, less what is reserved."""
        return self.free_blocks(kind) + self.pooled(self.tree.leaving_blocks, kind)

    def obtainable_blocks(self, kind: Kind) -> int:
        """Soon free plus all that eviction could free."""
        return self.soon_free_blocks(kind) + self.pooled(self.tree.evictable_blocks, kind)

    def context(self, swap: Swap) -> RankingContext:
        now_s = self.clock.now()
        return RankingContext(
            now_s=now_s,
            swap=swap,
            adapters_in_hbm=self.tree.adapters_in_hbm,
            low_lora=self.demand.low_lora(now_s) if self.ranker.depends_on_adapter_count else 0.0,
            link_bytes_per_s=self.link.bytes_per_s(Direction.IN),
            block_bytes=self.block_bytes,
        )

    # ---- leaving HBM -----------------------------------------------------------------------------------------------

    def evict(self, kind: Kind, num_blocks: int) -> None:
        """Frees, or starts to free, at least ``num_blocks`` in the region that serves ``kind``.

        The caller has asked ``obtainable_blocks``; running out of victims is a broken invariant (RuntimeError).
        """
        kinds = (kind == KV, kind == ADAPTER) if self.hbm.is_split else (True, True)
        dirty: list[int] = []
        gained = 0
        while gained < num_blocks:
            node = self._next_victim(kinds)
            if node is None:
                raise RuntimeError(f"no victim left after {gained} of {num_blocks} blocks")
            gained += int(self.tree.size[node])
            # Said before it leaves: a node that is dropped on the way no longer knows its parent.
            self._orders[kinds].left(node)
            if not self._leave(node):
                dirty.append(node)
            if self.tree.is_adapter[node] and self.ranker.depends_on_adapter_count:
                self._orders.clear()
        self._save(dirty, Priority.DEMAND)

    def _next_victim(self, kinds: tuple[bool, bool]) -> int | None:
        order = self._orders.get(kinds)
        now_s = self.clock.now()
        if order is not None and now_s < order.made_s + self.interval_s:
            node = order.next_victim()
            if node is not None:
                return node
        order = self._orders[kinds] = self._rank_victims(kinds, now_s)
        return order.next_victim()

    def _rank_victims(self, kinds: tuple[bool, bool], now_s: float) -> VictimOrder:
        tree, dependency = self.tree, self.policy.dependency
        mask = tree.unpinned_in_hbm()
        if not all(kinds):
            mask &= tree.is_adapter == kinds[1]
        nodes = np.flatnonzero(mask)
        scores = self.ranker.score(tree, nodes, self.context("out"))
        ready = (tree.hbm_children[nodes] == 0) | (not dependency)

        def eligible(node: int) -> bool:
            return bool(
                tree.hbm[node] == PRESENT
                and tree.pins[node] == 0
                and tree.last_use[node] <= now_s
                and (tree.hbm_children[node] == 0 or not dependency)
            )

        return VictimOrder(tree, nodes, scores, ready, eligible, now_s)

    def discard(self, node: int) -> None:
        """Takes an idle node out of HBM at once; nobody pins it."""
        self._save([] if self._leave(node) else [node], Priority.DEMAND)

    def _leave(self, node: int) -> bool:
        """Starts ``node`` on its way out. True when its blocks are free already, False when it must be saved first."""
        tree = self.tree
        self.counters.evicted_blocks += int(tree.size[node])
        self.ranker.on_leave(tree, node, self.clock.now())
        if self.evictions is not None:
            self.evictions.append((tree.adapter_ids[int(tree.adapter[node])], tree.labels[node]))
        tree.prefetched[node] = False
        if tree.host[node] == SAVING:
            tree.set_hbm(node, LEAVING)
            self.link.promote(self.saving[node])
            return True
        if tree.host[node] == PRESENT or not self._find_host_room(node):
            self._free_hbm(node)
            return True
        tree.set_hbm(node, LEAVING)
        return False

    def _find_host_room(self, node: int) -> bool:
        """Takes host blocks for ``node`` if it is to be saved and room can be made; KV goes before adapters."""
        if not self.tree.is_adapter[node] and not self.policy.host_kv_tier:
            return False
        count = int(self.tree.host_size[node])
        if not self.make_host_room(count, spare_adapters=not self.tree.is_adapter[node]):
            return False
        self.tree.host_blocks[node] = self.host.kv_region.allocate(count, node)
        return True

    def _free_hbm(self, node: int) -> None:
        tree = self.tree
        kind: Kind = ADAPTER if tree.is_adapter[node] else KV
        tree.set_hbm(node, ABSENT)
        self.region(kind).release(tree.hbm_blocks[node])
        tree.hbm_blocks[node] = []
        self.version += 1
        if kind == KV and tree.host[node] == ABSENT:
            self.counters.dropped_kv_blocks += 1
            tree.remove_if_gone(node)

    def _save(self, nodes: list[int], priority: Priority) -> None:
        """Copies ``nodes``, whose host blocks are taken, to host memory."""
        tree = self.tree
        for first in range(0, len(nodes), SAVE_CHUNK_BLOCKS):
            chunk = nodes[first : first + SAVE_CHUNK_BLOCKS]
            transfer = Transfer(
                direction=Direction.OUT,
                nodes=chunk,
                hbm_blocks=[block for node in chunk for block in tree.hbm_blocks[node][: tree.host_size[node]]],
                host_blocks=[block for node in chunk for block in tree.host_blocks[node]],
                num_bytes=int(tree.num_bytes[chunk].sum()),
                priority=priority,
            )
            tree.host[chunk] = SAVING
            self.saving.update(dict.fromkeys(chunk, transfer))
            self.counters.swap_out_bytes += transfer.num_bytes
            self.link.submit(transfer)

    def write_back(self, nodes: list[int]) -> None:
        """Copies KV nodes that have no host copy to host memory while they stay in HBM."""
        fresh = [node for node in nodes if self.tree.host[node] == ABSENT and self._find_host_room(node)]
        self._save(fresh, Priority.PREFETCH)

    def rescue(self, nodes: Indices) -> None:
        """Calls back nodes whose save is in flight: they stay in HBM, and the host copy will be a second one."""
        for node in nodes[self.tree.hbm[nodes] == LEAVING].tolist():
            self.tree.set_hbm(node, PRESENT)

    # ---- the host tier ---------------------------------------------------------------------------------------------

    def make_host_room(self, num_blocks: int, spare_adapters: bool) -> bool:
        """Drops host copies until ``num_blocks`` are free; False, with what was dropped dropped, when that fails.

        Second copies of what HBM holds go first, then the coldest KV leaves, then (unless spared) adapters no one has
        in HBM: those go back to disk.
        """
        while self.host.num_free < num_blocks:
            node = self._next_host_victim(spare_adapters)
            if node is None:
                return False
            self._drop_host(node)
        return True

    def _next_host_victim(self, spare_adapters: bool) -> int | None:
        now_s = self.clock.now()
        for fresh in (False, True):
            if fresh or self._host_order is None or now_s >= self._host_order.made_s + self.interval_s:
                self._host_order = self._rank_host_victims(now_s)
            node = self._host_order.next_victim()
            if node is not None and not (spare_adapters and self.tree.is_adapter[node]):
                return node
        return None

    def _rank_host_victims(self, now_s: float) -> VictimOrder:
        tree = self.tree

        def eligible(node: int) -> bool:
            second_copy = tree.hbm[node] == PRESENT and not tree.is_adapter[node]
            coldest = tree.hbm[node] == ABSENT and tree.pins[node] == 0 and tree.children[node] == 0
            return bool(tree.host[node] == PRESENT and (second_copy or coldest))

        nodes = np.flatnonzero((tree.host == PRESENT) & ~(tree.is_adapter & (tree.hbm != ABSENT)))
        scores = self.ranker.score(tree, nodes, self.context("out"))
        span = float(np.ptp(scores)) + 1.0 if len(nodes) else 1.0
        scores = scores + span * tree.is_adapter[nodes] - span * (tree.hbm[nodes] == PRESENT)
        ready = (tree.hbm[nodes] == PRESENT) | (tree.children[nodes] == 0)
        return VictimOrder(tree, nodes, scores, ready, eligible, now_s)

    def _drop_host(self, node: int) -> None:
        tree = self.tree
        self.host.kv_region.release(tree.host_blocks[node])
        tree.host_blocks[node] = []
        tree.host[node] = ABSENT
        order = self._host_order
        if order is not None and tree.hbm[node] == ABSENT:
            order.left(node)
        if not tree.is_adapter[node] and tree.hbm[node] == ABSENT:
            self.counters.dropped_kv_blocks += 1
            tree.remove_if_gone(node)

    # ---- coming into HBM -------------------------------------------------------------------------------------------

    def load(self, nodes: list[int], priority: Priority) -> None:
        """Brings nodes into HBM: KV and adapters from host memory, adapters without a host copy from disk.

        Takes their HBM blocks (the caller has made room), parents before children. Until the transfer ends, the nodes
        and their ancestors hold a pin of its own, so that nothing above a load in flight is evicted.
        """
        tree = self.tree
        for node in nodes:
            kind: Kind = ADAPTER if tree.is_adapter[node] else KV
            tree.hbm_blocks[node] = self.region(kind).allocate(int(tree.size[node]), node)
            tree.set_hbm(node, LOADING)
        adapters = [node for node in nodes if tree.is_adapter[node]]
        blocks = [node for node in nodes if not tree.is_adapter[node]]
        for node in adapters:
            self.generations[node] = self.generations.get(node, 0) + 1
            self.counters.adapter_in_bytes += int(tree.num_bytes[node])
            self._submit_load([node], priority)
            self._orders.clear()
        if blocks:
            self._submit_load(blocks, priority)

    def _submit_load(self, nodes: list[int], priority: Priority) -> None:
        tree = self.tree
        from_disk = tree.host[nodes[0]] != PRESENT
        transfer = Transfer(
            direction=Direction.DISK if from_disk else Direction.IN,
            nodes=nodes,
            hbm_blocks=[block for node in nodes for block in tree.hbm_blocks[node][: tree.host_size[node]]],
            host_blocks=[] if from_disk else [block for node in nodes for block in tree.host_blocks[node]],
            num_bytes=int(tree.num_bytes[nodes].sum()),
            priority=priority,
            adapter_id=tree.adapter_ids.get(nodes[0]),
        )
        lineage = self._with_ancestors(nodes)
        tree.pin(lineage)
        self._load_pins[transfer] = lineage
        self.loading.update(dict.fromkeys(nodes, transfer))
        self.counters.swap_in_bytes += transfer.num_bytes
        if priority is Priority.PREFETCH:
            self.counters.prefetch_in_bytes += transfer.num_bytes
            tree.prefetched[nodes] = True
        self.link.submit(transfer)

    def _with_ancestors(self, nodes: list[int]) -> Indices:
        lineage = set(nodes)
        for node in nodes:
            parent = int(self.tree.parent[node])
            while parent != ROOT and parent not in lineage:
                lineage.add(parent)
                parent = int(self.tree.parent[parent])
        return np.array(sorted(lineage), dtype=np.intp)

    def complete(self, transfer: Transfer) -> None:
        """Takes note that ``transfer`` has ended: its blocks change hands."""
        tree = self.tree
        transfer.collected = True
        if transfer.direction is Direction.OUT:
            for node in transfer.nodes:
                del self.saving[node]
                tree.host[node] = PRESENT
                if tree.hbm[node] == LEAVING:
                    self._free_hbm(node)
            return
        for node in transfer.nodes:
            del self.loading[node]
            tree.set_hbm(node, PRESENT)
        tree.unpin(self._load_pins.pop(transfer))
        self.version += 1

    # ---- proof -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Proves that tiers, tree and transfers agree: free + owned + in flight = capacity. Raises AssertionError."""
        tree = self.tree
        tree.check(self.policy.dependency)
        self.hbm.check()
        self.host.check()
        for tier, blocks_of, sizes, states in (
            (self.hbm, tree.hbm_blocks, tree.size, tree.hbm),
            (self.host, tree.host_blocks, tree.host_size, tree.host),
        ):
            owned = 0
            for node in np.flatnonzero(tree.in_use).tolist():
                expected = int(sizes[node]) if states[node] != ABSENT else 0
                if len(blocks_of[node]) != expected or any(tier.owner[block] != node for block in blocks_of[node]):
                    raise AssertionError(f"{tier.name}: node {node} does not own the {expected} blocks it should")
                owned += expected
            if owned != sum(1 for owner in tier.owner if owner >= 0):
                raise AssertionError(f"{tier.name}: blocks owned by nodes that do not hold them")
        if set(self.loading) != set(np.flatnonzero(tree.hbm == LOADING).tolist()):
            raise AssertionError("loads in flight and LOADING nodes differ")
        if set(self.saving) != set(np.flatnonzero(tree.host == SAVING).tolist()):
            raise AssertionError("saves in flight and SAVING nodes differ")
