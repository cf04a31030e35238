"""Blocks in motion: who holds which block of which tier, and the transfers between them.

``CacheMemory`` keeps pool, tree and link in step. It evicts until a shortage is met, loads nodes, and finishes
transfers; the policy only ranks. Who asks is above it: the cache manager for requests, the swapper for watermarks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np

from libra.cache.policy import CachePolicy, Indices, RankingContext, Swap, Tier
from libra.cache.pool import BlockTier, Region
from libra.cache.tree import ABSENT, LEAVING, LOADING, PRESENT, ROOT, SAVING, DependencyTree
from libra.cache.usage import DemandWindow
from libra.cache.victims import HbmVictims, HostVictims, Score
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
    """Totals over a run, in bytes or blocks as named. ``recomputed_bytes``: full blocks of what was known of a request
    at its admission and had to be computed, for want of a copy in either tier."""

    swap_in_bytes: int = 0
    swap_out_bytes: int = 0
    adapter_in_bytes: int = 0
    prefetch_in_bytes: int = 0
    prefetch_used_bytes: int = 0
    evicted_blocks: int = 0
    dropped_kv_blocks: int = 0
    recomputed_bytes: int = 0


class CacheMemory:
    """Both tiers, the tree over them, and the link between them.

    ``reserved`` counts free or soon-free blocks promised to requests that wait for evicted blocks to be saved.
    ``versions``, by kind, grow whenever room may have appeared, so that a failed admission need not be tried before.
    ``evictions``, when a list, receives (adapter id, label) of every node that leaves HBM, in order.
    ``wanted`` are the adapters of queued requests, soonest first, where the policy looks ahead.
    ``num_adapter_loads`` counts by where the weights came from: host | disk.
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
        recompute_price: Callable[[int], float],
    ) -> None:
        """``recompute_price``: seconds of delay, over all requests, that computing so many KV blocks again causes
        now. ``interval_s``: how long a ranking is good for."""
        self.policy = policy
        self.ranker = policy.ranker.fresh()
        self.tree = DependencyTree(policy.visit_half_life_s)
        self.demand = DemandWindow(policy.visit_half_life_s)
        self.hbm, self.host, self.link, self.clock = hbm, host, link, clock
        self.block_bytes = block_bytes
        self.interval_s = interval_s
        self.recompute_price = recompute_price
        self.reserved = [0, 0]
        self.versions = [0, 0]
        self.counters = CacheCounters()
        self.evictions: list[tuple[str | None, int]] | None = None
        self.wanted: dict[int, None] = {}
        self.num_adapter_loads = {"host": 0, "disk": 0}
        self.loading: dict[int, Transfer] = {}
        self.saving: dict[int, Transfer] = {}
        self.generations: dict[int, int] = {}
        self._load_pins: dict[Transfer, Indices] = {}
        self._orders: dict[tuple[bool, bool], HbmVictims] = {}
        self._host_order: HostVictims | None = None

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

    def version(self, kind: Kind) -> int:
        """The state of the region that serves ``kind``."""
        return self.pooled(self.versions, kind)

    def note_room(self) -> None:
        """Room of either kind may have appeared: something was unpinned, or a load has begun that others can share."""
        for kind in KINDS:
            self.versions[kind] += 1

    def context(self, swap: Swap, tier: Tier = "hbm") -> RankingContext:
        now_s = self.clock.now()
        return RankingContext(
            now_s=now_s,
            swap=swap,
            tier=tier,
            adapters_in_hbm=self.tree.adapters_in_hbm,
            low_lora=self.demand.low_lora(now_s) if self.ranker.depends_on_adapter_count else 0.0,
            link_bytes_per_s=self.link.bytes_per_s(Direction.IN),
            disk_bytes_per_s=self.link.bytes_per_s(Direction.DISK),
            recompute_s_per_block=self.recompute_price(1),
        )

    def scores(self, swap: Swap, tier: Tier = "hbm") -> Score:
        """The ranking as of now: any nodes' scores. A branch that swaps as one has its adapter's."""
        context = self.context(swap, tier)
        if self.policy.swap_unit == "branch":
            return lambda nodes: self.ranker.score(self.tree, self.tree.adapter[nodes], context)
        return partial(self.ranker.score, self.tree, context=context)

    # ---- leaving HBM -----------------------------------------------------------------------------------------------

    def evict(self, kind: Kind, num_blocks: int) -> None:
        """Frees, or starts to free, at least ``num_blocks`` in the region that serves ``kind``.

        The caller has asked ``obtainable_blocks``; running out of victims is a broken invariant (RuntimeError).
        """
        kinds = (kind == KV, kind == ADAPTER) if self.hbm.is_split else (True, True)
        gained = 0
        while gained < num_blocks:
            victims = self._take_victims(kinds, num_blocks - gained)
            if not victims:
                raise RuntimeError(f"no victim left after {gained} of {num_blocks} blocks")
            if self.policy.swap_unit == "branch":
                victims = self._branch_of(victims[0])
            gained += sum(self.tree.size[victims].tolist())
            self._leave(victims)
            if self.tree.is_adapter[victims[-1]] and self.ranker.depends_on_adapter_count:
                self._orders.clear()

    def _take_victims(self, kinds: tuple[bool, bool], num_blocks: int) -> list[int]:
        order = self._orders.get(kinds)
        now_s = self.clock.now()
        if order is not None and now_s < order.made_s + self.interval_s:
            victims = order.take(num_blocks, self.tree.size)
            if victims:
                return victims
        order = self._orders[kinds] = self._rank_victims(kinds, now_s)
        return order.take(num_blocks, self.tree.size)

    def _rank_victims(self, kinds: tuple[bool, bool], now_s: float) -> HbmVictims:
        candidates = self.tree.evictable(leaves_only=self.policy.dependency)
        if not all(kinds):
            candidates = candidates[self.tree.is_adapter[candidates] == kinds[1]]
        spared = list(self.wanted) if self.policy.spare_queued else []
        return HbmVictims(self.tree, candidates, self.scores("out"), now_s, self.policy.dependency, spared)

    def _branch_of(self, node: int) -> list[int]:
        """All that may leave of the branch of ``node``, children before parents. What is pinned has its ancestors
        pinned, so that nothing unpinned has anything pinned below it."""
        tree = self.tree
        branch = np.flatnonzero((tree.adapter == tree.adapter[node]) & tree.unpinned_in_hbm())
        deepest_first: list[int] = branch[np.argsort(-tree.depth[branch], kind="stable")].tolist()
        return deepest_first

    def discard(self, node: int) -> None:
        """Takes an idle node out of HBM at once; nobody pins it."""
        self._leave([node])

    def _leave(self, victims: list[int]) -> None:
        """Takes victims out of HBM, children before parents: at once, or when they have been saved."""
        tree, now_s = self.tree, self.clock.now()
        nodes = np.array(victims, dtype=np.intp)
        self.counters.evicted_blocks += sum(tree.size[nodes].tolist())
        self.ranker.on_leave(tree, nodes, now_s)
        if self.evictions is not None:
            self.evictions += [(tree.adapter_ids[int(tree.adapter[node])], tree.labels[node]) for node in victims]
        tree.move(nodes, LEAVING)
        # Victims are few as a rule: lists are sooner through with them than numpy.
        on_host = tree.host[nodes].tolist()
        being_saved = [node for node, state in zip(victims, on_host, strict=True) if state == SAVING]
        for node in being_saved:
            self.link.promote(self.saving[node])
        may_save = [is_one or self.policy.host_kv_tier for is_one in tree.is_adapter[nodes].tolist()]
        places = zip(victims, on_host, may_save, strict=True)
        to_save = self._take_host_room([node for node, state, may in places if state == ABSENT and may])
        if len(to_save) < len(victims):
            on_their_way = {*to_save, *being_saved}
            self._free_hbm([node for node in victims if node not in on_their_way])
        self._save(to_save, Priority.DEMAND)

    def _take_host_room(self, nodes: list[int]) -> list[int]:
        """Takes host blocks for the first of ``nodes`` for which room can be made; returns those."""
        if not nodes:
            return []
        tree, region = self.tree, self.host.kv_region
        sizes, are_adapters = tree.host_size[nodes].tolist(), tree.is_adapter[nodes].tolist()
        self.make_host_room(sum(sizes), spare_adapters=not all(are_adapters))
        if len(nodes) <= region.num_free and not any(are_adapters):
            for node, block in zip(nodes, region.allocate_each(nodes), strict=True):
                tree.host_blocks[node] = (block,)
            return nodes
        with_room, free = [], region.num_free
        for node, size in zip(nodes, sizes, strict=True):
            if size <= free:
                free -= size
                tree.host_blocks[node] = region.allocate(size, node)
                with_room.append(node)
        return with_room

    def _free_hbm(self, victims: list[int]) -> None:
        """Frees the blocks of nodes that leave HBM, children before parents, and forgets KV that is nowhere else."""
        if not victims:
            return
        tree = self.tree
        nodes = np.array(victims, dtype=np.intp)
        tree.move(nodes, ABSENT)
        tree.prefetched[nodes] = False
        by_kind: tuple[list[int], list[int]] = ([], [])
        for node, is_adapter in zip(victims, tree.is_adapter[nodes].tolist(), strict=True):
            by_kind[is_adapter].append(node)
        for kind in KINDS:
            self.region(kind).release([block for node in by_kind[kind] for block in tree.hbm_blocks[node]])
            for node in by_kind[kind]:
                tree.hbm_blocks[node] = ()
            self.versions[kind] += len(by_kind[kind])
        self._forget_kv([node for node in by_kind[KV] if tree.host.item(node) == ABSENT])

    def _forget_kv(self, nodes: list[int]) -> None:
        self.counters.dropped_kv_blocks += len(nodes)
        removed = [gone for node in nodes for gone in self.tree.remove_if_gone(node)]
        if removed:
            self.ranker.on_forget(self.tree, np.array(removed, dtype=np.intp), self.clock.now())

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
                num_bytes=sum(tree.num_bytes[chunk].tolist()),
                priority=priority,
            )
            tree.enter_host(chunk, SAVING)
            self.saving.update(dict.fromkeys(chunk, transfer))
            self.counters.swap_out_bytes += transfer.num_bytes
            self.link.submit(transfer)

    def write_back(self, nodes: list[int], only_free: bool) -> None:
        """Copies KV nodes that have no host copy, in order, to host memory while they stay in HBM. With ``only_free``
        nothing is dropped from host memory for them."""
        path = np.array(nodes, dtype=np.intp)
        unsaved = path[self.tree.host[path] == ABSENT]
        if only_free:
            unsaved = unsaved[: self.host.kv_region.num_free]
        self._save(self._take_host_room(unsaved.tolist()), Priority.PREFETCH)

    def rescue(self, nodes: Indices, now_s: float) -> None:
        """Calls back nodes whose save is in flight: they stay in HBM, and the host copy will be a second one."""
        leaving = nodes[self.tree.hbm[nodes] == LEAVING]
        if len(leaving):
            self.tree.move(leaving, PRESENT)
            self.ranker.on_enter(self.tree, leaving, now_s, prefetched=False)
            self.note_room()  # who waits for these saves must evict others instead

    # ---- the host tier ---------------------------------------------------------------------------------------------

    def make_host_room(self, num_blocks: int, spare_adapters: bool) -> bool:
        """Drops host copies until ``num_blocks`` are free; False when nothing more can be dropped before that.

        Second copies of what HBM holds go first, then the coldest KV leaves, then (unless spared) adapters no one has
        in HBM: those go back to disk.
        """
        while (missing := num_blocks - self.host.kv_region.num_free) > 0:
            victims = self._take_host_victims(missing)
            if victims and spare_adapters and self.tree.is_adapter[victims[-1]]:
                victims.pop()
            if not victims:
                return False
            self._drop_host(victims)
        return True

    def _take_host_victims(self, num_blocks: int) -> list[int]:
        now_s, sizes = self.clock.now(), self.tree.host_size
        if self._host_order is not None and now_s < self._host_order.made_s + self.interval_s:
            victims = self._host_order.take(num_blocks, sizes)
            if victims:
                return victims
        self._host_order = self._rank_host_victims(now_s)
        return self._host_order.take(num_blocks, sizes)

    def _rank_host_victims(self, now_s: float) -> HostVictims:
        return HostVictims(self.tree, self.tree.host_leaves(), self.scores("out", "host"), now_s)

    def _drop_host(self, victims: list[int]) -> None:
        """Frees host blocks, children before parents; KV that is nowhere else is forgotten."""
        tree = self.tree
        nodes = np.array(victims, dtype=np.intp)
        tree.host[nodes] = ABSENT
        self.host.kv_region.release([block for node in victims for block in tree.host_blocks[node]])
        for node in victims:
            tree.host_blocks[node] = ()
        is_gone = ~tree.is_adapter[nodes] & (tree.hbm[nodes] == ABSENT)
        self._forget_kv(nodes[is_gone].tolist())

    # ---- coming into HBM -------------------------------------------------------------------------------------------

    def load(self, nodes: list[int], priority: Priority) -> None:
        """Brings nodes into HBM: KV and adapters from host memory, adapters without a host copy from disk.

        Takes their HBM blocks (the caller has made room), parents before children. Until the transfer ends, the nodes
        and their ancestors hold a pin of its own, so that nothing above a load in flight is evicted.
        """
        if not nodes:
            return
        tree = self.tree
        is_adapter = tree.is_adapter[nodes].tolist()
        adapters = [node for node, is_one in zip(nodes, is_adapter, strict=True) if is_one]
        blocks = [node for node, is_one in zip(nodes, is_adapter, strict=True) if not is_one]
        for node in adapters:
            tree.hbm_blocks[node] = self.region(ADAPTER).allocate(int(tree.size[node]), node)
        for node, block in zip(blocks, self.region(KV).allocate_each(blocks), strict=True):
            tree.hbm_blocks[node] = (block,)
        entering = np.array(nodes, dtype=np.intp)
        tree.move(entering, LOADING)
        self.ranker.on_enter(tree, entering, self.clock.now(), priority is Priority.PREFETCH)
        for node in adapters:
            self.generations[node] = self.generations.get(node, 0) + 1
            self.counters.adapter_in_bytes += int(tree.num_bytes[node])
            self._submit_load([node], priority)
            self._orders.clear()
            self.note_room()
        if blocks:
            self._submit_load(blocks, priority)

    def _submit_load(self, nodes: list[int], priority: Priority) -> None:
        tree = self.tree
        from_disk = tree.host[nodes[0]] != PRESENT
        if tree.is_adapter[nodes[0]]:
            self.num_adapter_loads["disk" if from_disk else "host"] += 1
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
            tree.host[transfer.nodes] = PRESENT
            self._free_hbm([node for node in transfer.nodes if tree.hbm.item(node) == LEAVING])
            return
        for node in transfer.nodes:
            del self.loading[node]
        tree.move(np.array(transfer.nodes, dtype=np.intp), PRESENT)
        tree.unpin(self._load_pins.pop(transfer))
        self.note_room()

    def abandon(self, transfer: Transfer) -> bool:
        """Takes note that the load of an adapter has failed: it is out of HBM again, and its blocks are free.

        Nobody may hold it any more. False while KV below it is on its way: ask again when that has come.
        """
        tree, (node,) = self.tree, transfer.nodes
        if tree.pins[node] > 1:
            return False
        del self.loading[node]
        tree.unpin(self._load_pins.pop(transfer))
        if self.policy.dependency:
            stranded = np.flatnonzero((tree.adapter == node) & ~tree.is_adapter & tree.unpinned_in_hbm())
            if len(stranded):
                self._leave(stranded[np.argsort(-tree.depth[stranded], kind="stable")].tolist())
        self.ranker.on_leave(tree, np.array([node], dtype=np.intp), self.clock.now())
        tree.prefetched[node] = False
        self._free_hbm([node])
        self._orders.clear()
        return True

    # ---- adapters that come and go ---------------------------------------------------------------------------------

    def is_idle(self, adapter_node: int) -> bool:
        """Whether neither an adapter nor any of its KV is pinned or in motion."""
        tree = self.tree
        nodes = np.flatnonzero(tree.in_use & (tree.adapter == adapter_node))
        moving = (tree.hbm[nodes] == LOADING) | (tree.hbm[nodes] == LEAVING) | (tree.host[nodes] == SAVING)
        return not (moving | (tree.pins[nodes] > 0)).any()

    def remove_adapter(self, adapter_node: int) -> None:
        """Frees all blocks of an idle adapter and of its KV, in both tiers, and forgets both."""
        tree, now_s = self.tree, self.clock.now()
        nodes = np.flatnonzero(tree.in_use & (tree.adapter == adapter_node))
        nodes = nodes[np.argsort(-tree.depth[nodes], kind="stable")]
        in_hbm, on_host = nodes[tree.hbm[nodes] == PRESENT], nodes[tree.host[nodes] == PRESENT]
        if len(in_hbm):
            self.ranker.on_leave(tree, in_hbm, now_s)
            tree.prefetched[in_hbm] = False
        self._drop_host(on_host.tolist())
        self._free_hbm(in_hbm.tolist())
        self.ranker.on_forget(tree, np.array([adapter_node], dtype=np.intp), now_s)
        tree.remove_adapter(adapter_node)
        self.demand.forget(adapter_node)
        self.generations.pop(adapter_node, None)
        self.wanted.pop(adapter_node, None)
        self._orders.clear()
        self._host_order = None
        self.note_room()

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
