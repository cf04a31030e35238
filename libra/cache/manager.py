"""The cache as the scheduler sees it: admit, grow, commit, release.

    sequence.block_table   |  path: blocks of tree nodes, pinned  |  private: owned by the sequence (RUNNING)  |
                           0                              len(path)                                 len(table)

A private block moves to the path when it is full and enters the tree (``commit``).
"""

from collections.abc import Iterable
from itertools import islice

import numpy as np

from libra.cache.adapter_registry import AdapterRegistry
from libra.cache.holding import Admission, Claim, Holding, Plan
from libra.cache.memory import ADAPTER, KINDS, KV, SAVE_CHUNK_BLOCKS, CacheMemory, Kind
from libra.cache.outputs import OutputPeak
from libra.cache.policy import CachePolicy, Indices
from libra.cache.pool import RUNNING
from libra.cache.swapper import Swapper
from libra.cache.tree import ABSENT, LEAVING, LOADING, PRESENT, ROOT, Residency
from libra.engine.link import Direction, Priority, Transfer
from libra.engine.sequence import Sequence
from libra.spec import AdapterSpec, ModelSpec


class CacheManager:
    """One policy at work over one memory. All methods are called from the engine's thread."""

    def __init__(
        self,
        memory: CacheMemory,
        model: ModelSpec,
        adapters: list[AdapterSpec],
        block_tokens: int,
        slot_blocks: int = 0,
    ) -> None:
        """Registers ``adapters`` in host memory as far as it has room, the rest on disk. Padded slots have at least
        ``slot_blocks``, for adapters that come later.

        Raises LibraError when a static share cannot hold one slot, naming the smallest share that works.
        """
        self.memory = memory
        self.policy: CachePolicy = memory.policy
        self.block_tokens = block_tokens
        self.adapters = {spec.adapter_id: spec for spec in adapters}
        self.num_layers = model.num_layers
        self._kv_bytes = model.block_bytes(block_tokens)
        # Evicted at a time for running sequences: one by one, each would wait for a save of its own.
        self._growth_blocks = max(1, min(SAVE_CHUNK_BLOCKS, memory.region(KV).num_blocks // 256))
        self.holdings: dict[Sequence, Holding] = {}
        self.claims: dict[Sequence, Claim] = {}
        # Of the admitted requests, where admission asks for it; None when others have been admitted since.
        self._output_peak: OutputPeak | None = None
        # The kind of block a waiting sequence was last refused for, and the state of the cache then.
        self.refusals: dict[Sequence, tuple[Kind, int]] = {}
        # Loads of adapters that failed; those whose requests the engine has ended go when nothing below is in flight.
        self.failed_loads: list[Transfer] = []
        self.swapper = Swapper(memory, self.policy.swapper) if self.policy.swapper else None
        self._registry = AdapterRegistry(memory, model, block_tokens)
        self._registry.register(adapters, slot_blocks)

    def add_adapter(self, spec: AdapterSpec) -> None:
        """Registers an adapter on disk while the cache runs.

        Raises LibraError when the id is taken, and when the adapter is larger than its slot or its region of HBM.
        """
        self._registry.add(spec)
        self.adapters[spec.adapter_id] = spec

    def remove_adapter(self, adapter_id: str) -> None:
        """Forgets an adapter and its KV; its blocks are free in both tiers.

        Raises LibraError when it is unknown, and AdapterInUse while anything of it is in use or in motion.
        """
        self._registry.remove(adapter_id)
        del self.adapters[adapter_id]

    # ---- asks ------------------------------------------------------------------------------------------------------

    def adapter_node(self, adapter_id: str | None) -> int:
        return self.memory.tree.adapter_nodes[adapter_id]

    def adapter_tier(self, adapter_id: str | None) -> str:
        """Where an adapter is: base | hbm | loading | host | disk (an adapter on its way out counts as hbm)."""
        if adapter_id is None:
            return "base"
        residency = self.memory.tree.residency(self.adapter_node(adapter_id))
        return "hbm" if residency is Residency.SAVING else residency.value

    def missing_blocks(self, adapter_id: str | None) -> int:
        """Blocks that an adapter would fill in HBM: none when it is there or on its way."""
        tree, node = self.memory.tree, self.adapter_node(adapter_id)
        return 0 if tree.hbm[node] in (PRESENT, LOADING) else int(tree.size[node])

    def blocks_to_compute(self, sequence: Sequence) -> int:
        """Blocks of known tokens of ``sequence`` that neither tier holds, at least one."""
        matchable = (sequence.num_tokens - 1) // self.block_tokens
        found = self.memory.tree.match(self.adapter_node(sequence.adapter_id), sequence.hashes(matchable)[:matchable])
        return -(-sequence.num_tokens // self.block_tokens) - len(found)

    def reason_never_fits(self, adapter_id: str | None, max_tokens: int) -> str | None:
        """Why a request of ``max_tokens`` in all could not run even alone in this cache, or None. Judged per policy."""
        if adapter_id not in self.memory.tree.adapter_nodes:
            return f"asks for unknown adapter {adapter_id!r}"
        # The last token is never fed back, so its KV needs no room.
        kv_blocks = -(-(max_tokens - 1) // self.block_tokens)
        room = self._kv_room(adapter_id)
        if kv_blocks <= room:
            return None
        return f"needs {kv_blocks} KV blocks where there is room for {room}"

    def longest_context(self, adapter_id: str | None) -> int:
        """The most tokens, answer included, that a request could have alone in this cache."""
        return self._kv_room(adapter_id) * self.block_tokens + 1

    def _kv_room(self, adapter_id: str | None) -> int:
        return max(self.memory.region(KV).num_blocks - self._blocks_beside_kv(adapter_id), 0)

    # ---- admission -------------------------------------------------------------------------------------------------

    def worth_asking(self, sequence: Sequence) -> bool:
        """Whether ``admit`` could answer otherwise than last time: room may have appeared since."""
        refusal = self.refusals.get(sequence)
        return refusal is None or self.memory.version(refusal[0]) != refusal[1]

    def may_be_passed(self, sequence: Sequence) -> bool:
        """Whether requests behind ``sequence``, which was refused, may be admitted before it."""
        if self.policy.passing == "any" or not self.memory.hbm.is_split:
            return True
        return sequence in self.refusals and self.refusals[sequence][0] == ADAPTER

    def _outputs_fit(self, sequence: Sequence) -> bool:
        """Whether all admitted requests and ``sequence`` can run to their ends without anybody being preempted."""
        if not self.holdings:
            return True
        if self._output_peak is None or not self._output_peak.is_of(self.holdings):
            self._output_peak = OutputPeak(self.holdings, self.block_tokens, self._blocks_beside_kv)
        return self._output_peak.blocks_with(sequence) <= self.memory.region(KV).num_blocks

    def _blocks_beside_kv(self, adapter_id: str | None) -> int:
        """What an adapter takes of the region that KV is in."""
        return 0 if self.memory.hbm.is_split else int(self.memory.tree.size[self.adapter_node(adapter_id)])

    def admit(self, sequence: Sequence) -> Admission:
        """Matches, pins, makes room and starts the loads of ``sequence``; all or nothing.

        On ADMITTED its block table covers all known tokens and ``num_computed`` the reused ones. On SAVING, eviction
        is under way and the blocks are claimed: ask again. On NO_ROOM nothing has changed.
        """
        had_claim = self.release_claim(sequence)
        memory, tree = self.memory, self.memory.tree
        if self.policy.admission == "with_outputs" and not self._outputs_fit(sequence):
            return self._refuse(sequence, KV, had_claim)
        plan = self._plan(sequence)
        path = np.array([plan.adapter_node, *plan.path], dtype=np.intp)
        tree.pin(path)
        kinds: tuple[Kind, ...] = KINDS if memory.hbm.is_split else (KV,)
        needed = plan.needed if memory.hbm.is_split else [sum(plan.needed), 0]
        kept = self._leaving_blocks(path)
        for kind in kinds:
            if needed[kind] > memory.obtainable_blocks(kind) - memory.pooled(kept, kind):
                tree.unpin(path)
                return self._refuse(sequence, kind, had_claim)
        memory.rescue(path, memory.clock.now())
        for kind in kinds:
            shortage = needed[kind] - memory.soon_free_blocks(kind)
            if shortage > 0:
                memory.evict(kind, shortage)
        for kind in kinds:
            if needed[kind] > memory.free_blocks(kind):
                self._claim(sequence, path, plan.needed)
                self.refusals[sequence] = (kind, memory.version(kind))
                return Admission.SAVING
        self.refusals.pop(sequence, None)
        self._take(sequence, plan)
        return Admission.ADMITTED

    def _leaving_blocks(self, path: Indices) -> list[int]:
        """Blocks of ``path`` on their way out, by kind: calling them back frees nothing."""
        tree = self.memory.tree
        if not any(tree.leaving_blocks):
            return [0, 0]
        leaving = path[tree.hbm[path] == LEAVING]
        return [int(tree.size[leaving[tree.is_adapter[leaving] == bool(kind)]].sum()) for kind in KINDS]

    def _plan(self, sequence: Sequence) -> Plan:
        tree = self.memory.tree
        adapter_node = self.adapter_node(sequence.adapter_id)
        num_blocks = -(-sequence.num_tokens // self.block_tokens)
        path = np.empty(0, dtype=np.intp)
        if self.policy.history_kv == "keep":
            # At least the last known token is computed, for its logits.
            matchable = (sequence.num_tokens - 1) // self.block_tokens
            path = self._reachable(adapter_node, tree.match(adapter_node, sequence.hashes(matchable)[:matchable]))
            on_host = tree.hbm[path] == ABSENT
            num_on_host = int(np.count_nonzero(on_host))
            if num_on_host and not self._worth_loading(num_on_host, len(path) - int(on_host.argmax())):
                path = path[: int(on_host.argmax())]
        loads = path[tree.hbm[path] == ABSENT].tolist()
        adapter_blocks = 0
        if tree.hbm[adapter_node] == ABSENT:
            adapter_blocks = int(tree.size[adapter_node])
            loads.insert(0, adapter_node)
        new_blocks = num_blocks - len(path)
        kv_loads = len(loads) - (1 if adapter_blocks else 0)
        return Plan(adapter_node, path.tolist(), loads, [kv_loads + new_blocks, adapter_blocks], new_blocks)

    def _reachable(self, adapter_node: int, nodes: Indices) -> Indices:
        """The matched chain up to a node that is being saved below one that has left already: calling it back would
        leave it in HBM without its parent until that is loaded."""
        if not any(self.memory.tree.leaving_blocks):
            return nodes
        states = self.memory.tree.hbm[np.append(adapter_node, nodes)]
        if LEAVING not in states or ABSENT not in states:
            return nodes
        stranded = (states == LEAVING) & np.logical_or.accumulate(states == ABSENT)
        return nodes[: int(stranded.argmax()) - 1] if stranded.any() else nodes

    def _worth_loading(self, num_blocks: int, recomputed_blocks: int) -> bool:
        """Whether ``num_blocks`` of host KV come back sooner than the path from the first of them on is recomputed
        (``reload: cheaper``)."""
        if self.policy.reload == "always":
            return True
        seconds = self.memory.link.queue_seconds(Direction.IN, num_blocks * self._kv_bytes)
        return seconds <= self.memory.recompute_price(recomputed_blocks)

    def _claim(self, sequence: Sequence, path: Indices, needed: list[int]) -> None:
        """Keeps ``needed`` blocks and the leading HBM part of the pinned ``path`` for ``sequence``; unpins the rest."""
        tree = self.memory.tree
        inside = (tree.hbm[path] == PRESENT) | (tree.hbm[path] == LOADING)
        kept = len(path) if inside.all() else int(inside.argmin())
        tree.unpin(path[kept:])
        self.claims[sequence] = Claim(needed, path[:kept].tolist())
        for kind in KINDS:
            self.memory.reserved[kind] += needed[kind]

    def _refuse(self, sequence: Sequence, kind: Kind, had_claim: bool) -> Admission:
        """Notes what ``sequence`` lacks. Others may have use for what it has claimed until now."""
        if had_claim:
            self.memory.note_room()
        self.refusals[sequence] = (kind, self.memory.version(kind))
        return Admission.NO_ROOM

    def release_claim(self, sequence: Sequence) -> bool:
        """Gives back what ``sequence`` has claimed; False when that is nothing."""
        claim = self.claims.pop(sequence, None)
        if claim is None:
            return False
        self.memory.tree.unpin(np.array(claim.pinned, dtype=np.intp))
        for kind in KINDS:
            self.memory.reserved[kind] -= claim.blocks[kind]
        return True

    def _take(self, sequence: Sequence, plan: Plan) -> None:
        memory, tree, now_s = self.memory, self.memory.tree, self.memory.clock.now()
        nodes = np.array([plan.adapter_node, *plan.path], dtype=np.intp)
        self._note_hits(nodes)
        if sequence.record.admitted_s is None:
            self._note_use(nodes, now_s)
            memory.ranker.on_admit(sequence.request.id)
            memory.demand.note_request(None if sequence.adapter_id is None else plan.adapter_node, now_s)
        else:
            # Back after a preemption: nothing new has been asked for.
            tree.touch(nodes, now_s, visits=0)
        hbm_hits = int(np.count_nonzero(tree.hbm[nodes[1:]] == PRESENT))
        memory.load(plan.loads, Priority.DEMAND)
        # The last of the new blocks holds the last known token, which is computed in any case.
        memory.counters.recomputed_bytes += (plan.new_blocks - 1) * self._kv_bytes
        private = memory.region(KV).allocate(plan.new_blocks, RUNNING)
        adapter_load = memory.loading.get(plan.adapter_node)
        on_the_way = (memory.loading.get(node) for node in plan.path) if memory.loading else ()
        kv_loads = list(dict.fromkeys(load for load in on_the_way if load is not None))
        for load in kv_loads if adapter_load is None else [adapter_load, *kv_loads]:
            memory.link.promote(load)
        self._output_peak = None
        self.holdings[sequence] = Holding(
            adapter_node=plan.adapter_node,
            path=plan.path,
            num_private=plan.new_blocks,
            adapter_load=adapter_load,
            kv_loads=kv_loads,
            shares=self.policy.history_kv == "keep",
            hbm_hit_blocks=hbm_hits,
            host_hit_blocks=len(plan.path) - hbm_hits,
        )
        sequence.block_table = [tree.hbm_blocks[node][0] for node in plan.path] + private
        sequence.adapter_blocks = list(tree.hbm_blocks[plan.adapter_node])
        sequence.adapter_generation = memory.generations.get(plan.adapter_node, 0)
        sequence.num_computed = len(plan.path) * self.block_tokens

    def _note_hits(self, nodes: Indices) -> None:
        tree = self.memory.tree
        useful = nodes[tree.prefetched[nodes]]
        self.memory.counters.prefetch_used_bytes += int(tree.num_bytes[useful].sum())
        tree.prefetched[useful] = False

    def _note_use(self, nodes: Indices, now_s: float) -> None:
        tree = self.memory.tree
        visited = nodes if self.policy.visit_scope == "path" else nodes[-1:]
        tree.touch(visited, now_s, visits=1)
        self.memory.ranker.on_hit(tree, visited, now_s)

    # ---- while it runs ---------------------------------------------------------------------------------------------

    def block_will_come(self) -> bool:
        """Whether a KV block will come free without preempting anyone: by a save in flight or one still to start."""
        tree, memory = self.memory.tree, self.memory
        return memory.pooled(tree.leaving_blocks, KV) + memory.pooled(tree.evictable_blocks, KV) > 0

    def can_grow(self) -> bool:
        """Whether ``grow`` would take a block, or start to evict for one, if it were asked now."""
        memory = self.memory
        coming = memory.pooled(memory.tree.leaving_blocks, KV)
        evictable = memory.pooled(memory.tree.evictable_blocks, KV)
        return memory.region(KV).num_free > 0 or (coming == 0 and evictable > 0)

    def _has_room(self, sequence: Sequence) -> bool:
        return sequence.num_computed < len(sequence.block_table) * self.block_tokens

    def grow(self, sequence: Sequence) -> bool:
        """Gives ``sequence`` room for one more token. False: no block is free at this moment.

        Running sequences come before claims. A missing block is evicted for, with some for the sequences that are next;
        when it must be saved first, the sequence sits out the step.
        """
        if self._has_room(sequence):
            return True
        region = self.memory.region(KV)
        if not self.can_grow():
            return False
        if region.num_free == 0:
            evictable = self.memory.pooled(self.memory.tree.evictable_blocks, KV)
            self.memory.evict(KV, min(evictable, self._growth_blocks))
            if region.num_free == 0:
                return False
        sequence.block_table += region.allocate(1, RUNNING)
        self.holdings[sequence].num_private += 1
        return True

    def commit(self, sequence: Sequence, filled_s: float | None = None) -> None:
        """Enters the blocks that ``num_computed`` has filled into the tree, so that others can share them. They were
        full at ``filled_s``: now, unless several steps are booked at once."""
        holding = self.holdings[sequence]
        full = sequence.num_computed // self.block_tokens
        if not holding.shares or full <= len(holding.path):
            return
        labels = sequence.hashes(full)
        now_s = self.memory.clock.now() if filled_s is None else filled_s
        while holding.shares and len(holding.path) < full:
            first = len(holding.path)
            parent = holding.path[-1] if holding.path else holding.adapter_node
            node = self.memory.tree.find(parent, labels[first])
            if node is not None:
                if not self._join(sequence, holding, node, first, now_s):
                    return
            else:
                self._insert(sequence, holding, parent, labels[first:full], now_s)

    def _insert(self, sequence: Sequence, holding: Holding, parent: int, labels: list[int], now_s: float) -> None:
        """Adds a chain of new nodes; stops sharing when a label is taken elsewhere (a hash collision)."""
        tree, first = self.memory.tree, len(holding.path)
        taken = next((i for i, label in enumerate(labels) if tree.has_label(label)), len(labels))
        if taken == 0:
            holding.shares = False
            return
        blocks = sequence.block_table[first : first + taken]
        nodes = tree.add_kv(parent, labels[:taken], blocks, self._kv_bytes, now_s)
        owners = self.memory.hbm.owner
        for node, block in zip(nodes.tolist(), blocks, strict=True):
            owners[block] = node
        holding.path += nodes.tolist()
        holding.num_private -= taken
        self.memory.ranker.on_insert(tree, nodes, now_s)

    def _join(self, sequence: Sequence, holding: Holding, node: int, position: int, now_s: float) -> bool:
        """Meets a node that exists already: shares its block, or lends it this copy when HBM has none.

        False while the node's own data is on its way: the sequence keeps its private copy and asks again later.
        """
        memory, tree = self.memory, self.memory.tree
        as_array = np.array([node], dtype=np.intp)
        own = sequence.block_table[position]
        memory.rescue(as_array, now_s)
        if tree.hbm[node] == PRESENT:
            sequence.block_table[position] = tree.hbm_blocks[node][0]
            memory.region(KV).release([own])
            memory.note_room()
        elif tree.hbm[node] == ABSENT:
            tree.hbm_blocks[node] = (own,)
            memory.region(KV).assign([own], node)
            tree.move(as_array, PRESENT)
            memory.ranker.on_enter(tree, as_array, now_s, prefetched=False)
        else:
            return False
        tree.pin(as_array)
        holding.path.append(node)
        holding.num_private -= 1
        return True

    def release(self, sequence: Sequence) -> None:
        """Unpins what ``sequence`` holds and frees its private blocks; full blocks stay as history.

        For a sequence that finished, was preempted, or was aborted (loads in flight go on without it).
        """
        self.release_claim(sequence)
        self.refusals.pop(sequence, None)
        self.memory.note_room()
        holding = self.holdings.pop(sequence, None)
        if holding is None:
            return
        self._output_peak = None
        memory = self.memory
        private = sequence.block_table[len(holding.path) :]
        memory.region(KV).release(private)
        nodes = np.array([holding.adapter_node, *holding.path], dtype=np.intp)
        visited = nodes if self.policy.visit_scope == "path" else nodes[-1:]
        memory.tree.touch(visited, memory.clock.now(), visits=0)
        memory.tree.unpin(nodes)
        if self.policy.write_back != "on_evict":
            memory.write_back(holding.path, only_free=self.policy.write_back == "into_free")
        sequence.block_table, sequence.adapter_blocks, sequence.num_computed = [], [], 0

    # ---- ahead of need ---------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Takes note of the transfers that have ended. A failed load of an adapter goes to ``failed_loads``: end the
        requests of that adapter, then ``abandon_failed``. Raises LibraError when a copy between the tiers failed."""
        for transfer in self.memory.link.poll():
            if transfer.error is None:
                self.memory.complete(transfer)
            elif transfer.direction is Direction.DISK:
                self.failed_loads.append(transfer)
            else:
                raise transfer.error

    def abandon_failed(self) -> list[Transfer]:
        """Frees the blocks of failed loads and returns these; loads above KV that is on its way stay for next time."""
        abandoned = [load for load in self.failed_loads if self.memory.abandon(load)]
        self.failed_loads = [load for load in self.failed_loads if load not in abandoned]
        return abandoned

    def tick(self, num_running: int) -> None:
        """Every interval: notes the batch size, and lets the swapper act."""
        self.memory.demand.note_batch(self.memory.clock.now(), num_running)
        if self.swapper is not None:
            self.swapper.tick()

    def look_ahead(self, waiting: Iterable[Sequence]) -> None:
        """Loads adapters of queued requests into free blocks, and drops idle ones that nobody waits for, as the policy
        says. Never evicts to prefetch."""
        memory, tree = self.memory, self.memory.tree
        if self.policy.prefetch == "queue":
            queued = (self.adapter_node(sequence.adapter_id) for sequence in islice(waiting, self.policy.lookahead))
            memory.wanted = dict.fromkeys(queued)
        if self.policy.idle_adapters == "discard":
            idle = tree.evictable(leaves_only=self.policy.dependency)
            for node in idle[tree.is_adapter[idle]].tolist():
                if node not in memory.wanted:
                    memory.discard(node)
        for node in memory.wanted:
            if tree.hbm[node] == ABSENT and memory.free_blocks(ADAPTER) >= tree.size[node]:
                memory.load([node], Priority.PREFETCH)

    # ---- proof -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Proves that pins, private blocks and claims add up. Raises AssertionError."""
        memory, tree = self.memory, self.memory.tree
        memory.check()
        pins = np.zeros(tree.capacity, dtype=np.int64)
        pins[ROOT] = pins[tree.adapter_nodes[None]] = 1
        for holding in self.holdings.values():
            np.add.at(pins, [holding.adapter_node, *holding.path], 1)
        for claim in self.claims.values():
            np.add.at(pins, np.array(claim.pinned, dtype=np.intp), 1)
        for lineage in memory._load_pins.values():
            np.add.at(pins, lineage, 1)
        if (pins != tree.pins).any():
            raise AssertionError(f"pins of node {int(np.flatnonzero(pins != tree.pins)[0])} do not add up")
        private = 0
        for sequence, holding in self.holdings.items():
            if len(sequence.block_table) != len(holding.path) + holding.num_private:
                raise AssertionError(f"request {sequence.request.id}: block table and holding differ")
            for node, block in zip(holding.path, sequence.block_table, strict=False):
                if tree.hbm_blocks[node] != (block,):
                    raise AssertionError(f"request {sequence.request.id}: points at a block of nobody's node")
            private += holding.num_private
        if private != memory.hbm.owner.count(RUNNING):
            raise AssertionError("private blocks leaked")
        for kind in KINDS:
            if memory.reserved[kind] != sum(claim.blocks[kind] for claim in self.claims.values()):
                raise AssertionError("reserved blocks and claims differ")
