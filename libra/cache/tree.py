"""The dependency tree: adapters under a root, KV blocks under their adapter (FASTLIBRA, arXiv 2505.03756).

Node state lives in columns (numpy arrays indexed by node), so that scoring all nodes is one vector expression.
Where a node's data is takes two columns, since HBM and host memory can hold a copy at the same time:

    hbm    ABSENT -> LOADING -> PRESENT -> LEAVING -> ABSENT    LEAVING: evicted, its save is still in flight
    host   ABSENT -> SAVING  -> PRESENT -> ABSENT

An adapter with neither copy is on disk. A KV node with neither is gone; it stays in the tree only while it has children
(without the dependency rule, or while a child's save is still in flight).
"""

import math
from collections.abc import Sequence
from enum import Enum
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from libra.cache.candidates import Candidates
from libra.cache.policy import Indices
from libra.spec import AdapterSpec
from libra.tokens import adapter_seed

ROOT = 0
ABSENT, LOADING, PRESENT, LEAVING, SAVING = 0, 1, 2, 3, 4
_INSIDE = (LOADING, PRESENT)
NEVER_VISITED = -30.0  # log visits of an adapter nobody has asked for: finite, and below any real count


COLUMNS: dict[str, type[np.generic]] = {
    "in_use": np.bool_,
    "is_adapter": np.bool_,
    "prefetched": np.bool_,
    "parent": np.intp,
    "adapter": np.intp,
    "depth": np.int32,
    "hbm": np.int8,
    "host": np.int8,
    "pins": np.int32,
    "children": np.int32,
    "hbm_children": np.int32,
    "size": np.int32,
    "host_size": np.int32,
    "num_bytes": np.int64,
    "log_bytes": np.float64,
    "log_visits": np.float64,
    "last_use": np.float64,
    "previous_use": np.float64,
    "created": np.float64,
}


Mask = npt.NDArray[np.bool_]


class Residency(Enum):
    """Where a node is, in one word."""

    HBM = "hbm"
    HOST = "host"
    LOADING = "loading"
    SAVING = "saving"
    DISK = "disk"
    GONE = "gone"


class DependencyTree:
    """Nodes and their columns. Moves no data and owns no blocks: the cache manager does, and keeps this in step.

    Columns, one entry per node (``size`` in blocks, times in seconds):
    is_adapter, parent, adapter (node index), depth (adapter = 1), hbm, host, pins, children, hbm_children (children in
    HBM or LOADING), size, host_size, num_bytes (what a transfer moves), log_bytes, log_visits (decayed count at
    ``last_use``), last_use, previous_use (the one before it), created, prefetched (brought in ahead of need and not
    used since).
    """

    in_use: Mask
    is_adapter: Mask
    prefetched: Mask
    parent: npt.NDArray[np.intp]
    adapter: npt.NDArray[np.intp]
    depth: npt.NDArray[np.int32]
    hbm: npt.NDArray[np.int8]
    host: npt.NDArray[np.int8]
    pins: npt.NDArray[np.int32]
    children: npt.NDArray[np.int32]
    hbm_children: npt.NDArray[np.int32]
    size: npt.NDArray[np.int32]
    host_size: npt.NDArray[np.int32]
    num_bytes: npt.NDArray[np.int64]
    log_bytes: npt.NDArray[np.float64]
    log_visits: npt.NDArray[np.float64]
    last_use: npt.NDArray[np.float64]
    previous_use: npt.NDArray[np.float64]
    created: npt.NDArray[np.float64]

    def __init__(self, visit_half_life_s: float, capacity: int = 1024) -> None:
        self.decay_rate = float(np.log(2.0)) / visit_half_life_s
        for column, dtype in COLUMNS.items():
            setattr(self, column, np.zeros(capacity, dtype=dtype))
        self.labels: list[int] = [0] * capacity
        self.hbm_blocks: list[Sequence[int]] = [()] * capacity
        self.host_blocks: list[Sequence[int]] = [()] * capacity
        self.adapter_nodes: dict[str | None, int] = {}
        self.adapter_ids: dict[int, str | None] = {}
        self._index: dict[int, int] = {}
        self._free_nodes = list(range(capacity - 1, ROOT, -1))
        # Blocks of unpinned PRESENT nodes, [KV, adapters]: what eviction could free in the end.
        self.evictable_blocks = [0, 0]
        self.leaving_blocks = [0, 0]
        self.adapters_in_hbm = 0
        self._hbm_leaves = Candidates(self._is_hbm_leaf)
        self._host_leaves = Candidates(self._is_host_leaf)
        self.hbm[ROOT], self.pins[ROOT], self.parent[ROOT] = PRESENT, 1, ROOT

    @property
    def capacity(self) -> int:
        return len(self.labels)

    def __len__(self) -> int:
        """Nodes in the tree, the root left out."""
        return self.capacity - 1 - len(self._free_nodes)

    # ---- nodes -----------------------------------------------------------------------------------------------------

    def add_adapter(self, spec: AdapterSpec | None, size: int, host_size: int, num_bytes: int) -> int:
        """Adds an adapter's node, resident nowhere. ``spec`` None is the base model: no blocks, always in HBM."""
        adapter_id = None if spec is None else spec.adapter_id
        if adapter_id in self.adapter_nodes:
            raise ValueError(f"adapter {adapter_id!r} is in the tree already")
        (node,) = self._new_nodes(1)
        self.is_adapter[node] = True
        self.parent[node], self.adapter[node], self.depth[node] = ROOT, node, 1
        self.size[node], self.host_size[node], self.num_bytes[node] = size, host_size, num_bytes
        self.log_bytes[node] = math.log(max(num_bytes, 1))
        self.log_visits[node] = NEVER_VISITED
        self.last_use[node] = self.created[node] = 0.0
        self.labels[node] = adapter_seed(adapter_id)
        self.adapter_nodes[adapter_id], self.adapter_ids[node] = node, adapter_id
        self.children[ROOT] += 1
        if spec is None:
            self.hbm[node], self.pins[node] = PRESENT, 1
            self.hbm_children[ROOT] += 1
        return node

    def remove_adapter(self, node: int) -> None:
        """Deletes an adapter's node that holds nothing, is pinned by nobody and has no children."""
        if self.hbm[node] != ABSENT or self.host[node] != ABSENT or self.children[node] or self.pins[node]:
            raise ValueError(f"adapter {self.adapter_ids[node]!r} still holds blocks, pins or KV")
        del self.adapter_nodes[self.adapter_ids.pop(node)]
        self.in_use[node] = self.is_adapter[node] = self.prefetched[node] = False
        self.size[node] = 0
        self.children[ROOT] -= 1
        self._free_nodes.append(node)

    def add_kv(
        self, parent: int, labels: Sequence[int], blocks: Sequence[int], num_bytes: int, now_s: float
    ) -> Indices:
        """Adds a chain of KV nodes below ``parent``, in HBM and pinned once, one block each."""
        nodes = np.array(self._new_nodes(len(labels)), dtype=np.intp)
        # Decode adds blocks one by one: storing a number costs a tenth of storing an array of one.
        where: Any = int(nodes[0]) if len(nodes) == 1 else nodes
        self.depth[where] = self.depth[parent] + 1
        if len(nodes) > 1:
            self.depth[nodes] += np.arange(len(nodes), dtype=np.int32)
            self.parent[nodes[1:]] = nodes[:-1]
            self.children[nodes[:-1]] = self.hbm_children[nodes[:-1]] = 1
        self.parent[nodes[0]] = parent
        self.children[parent] += 1
        self.hbm_children[parent] += 1
        self.adapter[where] = self.adapter[parent]
        self.hbm[where], self.pins[where] = PRESENT, 1
        self.size[where] = self.host_size[where] = 1
        self.num_bytes[where], self.log_bytes[where] = num_bytes, math.log(num_bytes)
        self.last_use[where] = self.created[where] = now_s
        self.log_visits[where] = 0.0
        self._hbm_leaves.add((int(nodes[-1]),))
        for node, label, block in zip(nodes.tolist(), labels, blocks, strict=True):
            self._index[label] = node
            self.labels[node] = label
            self.hbm_blocks[node] = (block,)
        return nodes

    def find(self, parent: int, label: int) -> int | None:
        """The KV child of ``parent`` with this label, whatever its residency."""
        node = self._index.get(label)
        return node if node is not None and self.parent[node] == parent else None

    def has_label(self, label: int) -> bool:
        return label in self._index

    def match(self, adapter_node: int, labels: Sequence[int]) -> Indices:
        """The longest chain of nodes below ``adapter_node`` with these labels that HBM or host memory holds.

        The chain is verified by parents, not by labels alone: whatever collides, no node of another adapter is
        ever returned (invariant 4).
        """
        found = list(map(self._index.get, labels))
        if None in found:
            found = found[: found.index(None)]
        nodes = np.array(found, dtype=np.intp)
        if len(nodes) == 0:
            return nodes
        usable = (self.hbm[nodes] != ABSENT) | (self.host[nodes] == PRESENT)
        usable[0] &= self.parent[nodes[0]] == adapter_node
        usable[1:] &= self.parent[nodes[1:]] == nodes[:-1]
        return nodes if usable.all() else nodes[: int(usable.argmin())]

    def remove_if_gone(self, node: int) -> list[int]:
        """Deletes a KV node that holds nothing and has no children, then its parent on the same terms; returns those
        deleted."""
        removed: list[int] = []
        hbm, host, children, pins = self.hbm.item, self.host.item, self.children.item, self.pins.item
        while self.in_use.item(node) and not self.is_adapter.item(node):
            if hbm(node) != ABSENT or host(node) != ABSENT or children(node) or pins(node):
                break
            parent = self.parent.item(node)
            del self._index[self.labels[node]]
            self.in_use[node] = False
            self._free_nodes.append(node)
            self.children[parent] -= 1
            removed.append(node)
            node = parent
        if removed:
            self._host_leaves.add((node,))
        return removed

    def _new_nodes(self, count: int) -> list[int]:
        while len(self._free_nodes) < count:
            self._grow()
        nodes = self._free_nodes[: -count - 1 : -1]
        del self._free_nodes[-count:]
        # A removed node held nothing, was pinned by nobody and had no children: those columns are zero already.
        self.in_use[nodes if count > 1 else nodes[0]] = True
        return nodes

    def _grow(self) -> None:
        old = self.capacity
        for column in COLUMNS:
            values = getattr(self, column)
            setattr(self, column, np.concatenate([values, np.zeros_like(values)]))
        self.labels.extend([0] * old)
        self.hbm_blocks.extend([()] * old)
        self.host_blocks.extend([()] * old)
        self._free_nodes[:0] = range(2 * old - 1, old - 1, -1)

    # ---- state -----------------------------------------------------------------------------------------------------

    def move(self, nodes: Indices, state: int) -> None:
        """Moves distinct ``nodes`` to an HBM state and keeps every count that depends on it."""
        before = self.hbm[nodes]
        states = set(before.tolist())
        for old in states:
            self._move_from(old, state, nodes if len(states) == 1 else nodes[before == old])

    def _move_from(self, old: int, state: int, nodes: Indices) -> None:
        """The same for nodes that are all in one state."""
        self.hbm[nodes] = state
        step = (state in _INSIDE) - (old in _INSIDE)
        if step:
            np.add.at(self.hbm_children, self.parent[nodes], np.int32(step))
            self.adapters_in_hbm += step * sum(self.is_adapter[nodes].tolist())
            self._hbm_leaves.add((nodes if step > 0 else self.parent[nodes]).tolist())
            if step > 0:
                self._host_leaves.add(nodes.tolist())
        if present := (state == PRESENT) - (old == PRESENT):
            self._count(self.evictable_blocks, nodes[self.pins[nodes] == 0], present)
        if leaving := (state == LEAVING) - (old == LEAVING):
            self._count(self.leaving_blocks, nodes, leaving)

    def enter_host(self, nodes: list[int], state: int) -> None:
        """Notes that host memory holds copies of ``nodes`` (PRESENT) or will (SAVING)."""
        self.host[nodes] = state
        self._host_leaves.add(nodes)

    def _count(self, totals: list[int], nodes: Indices, sign: int) -> None:
        """Adds the blocks of ``nodes`` to ``totals``, [KV, adapters], or takes them off."""
        sizes = self.size[nodes].tolist()  # mostly few: Python adds them up sooner than numpy
        of_adapters = sum(compress(sizes, self.is_adapter[nodes].tolist()))
        totals[0] += sign * (sum(sizes) - of_adapters)
        totals[1] += sign * of_adapters

    def pin(self, nodes: Indices) -> None:
        """Pins each of ``nodes`` once more."""
        pins = self.pins[nodes]
        self._count_evictable(nodes[pins == 0], -1)
        self.pins[nodes] = pins + 1

    def unpin(self, nodes: Indices) -> None:
        """Takes one pin off each of ``nodes``."""
        pins = self.pins[nodes]
        self.pins[nodes] = pins - 1
        self._count_evictable(nodes[pins == 1], +1)

    def _count_evictable(self, nodes: Indices, sign: int) -> None:
        if len(nodes):
            self._count(self.evictable_blocks, nodes[self.hbm[nodes] == PRESENT], sign)

    def touch(self, nodes: Indices, now_s: float, visits: int) -> None:
        """Decays the visit counts of ``nodes`` to ``now_s``, adds ``visits`` (0 or 1), and sets their last use."""
        self.previous_use[nodes] = self.last_use[nodes]
        decayed = self.log_visits[nodes] - (now_s - self.last_use[nodes]) * self.decay_rate
        self.log_visits[nodes] = np.logaddexp(decayed, 0.0) if visits else np.maximum(decayed, NEVER_VISITED)
        self.last_use[nodes] = now_s

    def log_visits_at(self, nodes: Indices, now_s: float) -> npt.NDArray[np.float64]:
        """Natural log of the visit counts decayed to ``now_s``; never below NEVER_VISITED."""
        return self.log_visits_after(now_s - self.last_use[nodes], nodes)

    def log_visits_after(self, idle_s: npt.NDArray[np.float64], nodes: Indices) -> npt.NDArray[np.float64]:
        """The same when ``nodes`` have been idle for ``idle_s``."""
        return np.maximum(self.log_visits[nodes] - idle_s * self.decay_rate, NEVER_VISITED)

    def residency(self, node: int) -> Residency:
        hbm, host = self.hbm[node], self.host[node]
        if hbm == LOADING:
            return Residency.LOADING
        if hbm == LEAVING:
            return Residency.SAVING
        if hbm == PRESENT:
            return Residency.HBM
        if host == PRESENT:
            return Residency.HOST
        return Residency.DISK if self.is_adapter[node] else Residency.GONE

    # ---- views -----------------------------------------------------------------------------------------------------

    def unpinned_in_hbm(self) -> Mask:
        """Mask of the nodes that eviction may come to, leaves or not."""
        mask: Mask = (self.hbm == PRESENT) & (self.pins == 0) & (self.size > 0)
        return mask

    def evictable(self, leaves_only: bool) -> Indices:
        """The nodes that eviction may come to, ascending; with ``leaves_only`` those without children in HBM."""
        nodes = self._hbm_leaves.read() if leaves_only else np.flatnonzero(self.hbm == PRESENT)
        free: Indices = nodes[(self.hbm[nodes] == PRESENT) & (self.pins[nodes] == 0) & (self.size[nodes] > 0)]
        return free

    def host_leaves(self) -> Indices:
        """The nodes whose host copy may be dropped, ascending: second copies of what is in HBM and what has no
        children; no adapter that is in HBM or on its way."""
        nodes = self._host_leaves.read()
        hbm = self.hbm[nodes]
        loose = (hbm == PRESENT) | (self.children[nodes] == 0)
        free: Indices = nodes[(self.host[nodes] == PRESENT) & loose & ~(self.is_adapter[nodes] & (hbm != ABSENT))]
        return free

    def _is_hbm_leaf(self, nodes: Indices) -> Mask:
        hbm = self.hbm[nodes]
        mask: Mask = ((hbm == PRESENT) | (hbm == LOADING)) & (self.hbm_children[nodes] == 0)
        return mask

    def _is_host_leaf(self, nodes: Indices) -> Mask:
        mask: Mask = (self.host[nodes] != ABSENT) & ((self.hbm[nodes] != ABSENT) | (self.children[nodes] == 0))
        return mask

    def usable_in_hbm(self) -> Mask:
        """Mask of nodes that are in HBM with all their ancestors; the rest of the KV in HBM is *invalid KV*."""
        usable: Mask = (self.hbm == PRESENT) | (self.hbm == LOADING)
        usable[ROOT] = True
        ancestor = self.parent.copy()
        # Each round doubles how far up a node has looked: log2(depth) rounds.
        while ancestor.any():
            usable &= usable[ancestor]
            ancestor = ancestor[ancestor]
        return usable

    def check(self, dependency: bool) -> None:
        """Proves the tree's invariants (docs/architecture.md). Raises AssertionError naming the node."""
        nodes = np.flatnonzero(self.in_use)
        nodes = nodes[nodes != ROOT]
        in_hbm = (self.hbm == PRESENT) | (self.hbm == LOADING)
        parents = self.parent[nodes]
        if dependency:
            _none(nodes, in_hbm[nodes] & ~in_hbm[parents], "is in HBM without its parent")
        pinned = self.pins[nodes] > 0
        _none(nodes, self.pins[nodes] < 0, "has negative pins")
        _none(nodes, pinned & ~in_hbm[nodes], "is pinned outside HBM")
        _none(nodes, pinned & ~in_hbm[parents], "is pinned below an ancestor outside HBM")
        _none(nodes, pinned & (self.pins[parents] == 0), "is pinned below an unpinned ancestor")
        _none(nodes, ~self.is_adapter[nodes] & (self.adapter[nodes] != self.adapter[parents]), "crossed adapters")
        counts = np.bincount(parents, minlength=self.capacity)
        hbm_counts = np.bincount(parents[in_hbm[nodes]], minlength=self.capacity)
        everyone = np.append(nodes, ROOT)
        _none(everyone, (self.children != counts)[everyone], "miscounts its children")
        _none(everyone, (self.hbm_children != hbm_counts)[everyone], "miscounts its children in HBM")
        for kind in (0, 1):
            of_kind = nodes[self.is_adapter[nodes] == bool(kind)]
            free_to_go = of_kind[(self.hbm[of_kind] == PRESENT) & (self.pins[of_kind] == 0)]
            if self.size[free_to_go].sum() != self.evictable_blocks[kind]:
                raise AssertionError(f"evictable_blocks[{kind}] is {self.evictable_blocks[kind]}, not the nodes' sum")
            leaving = of_kind[self.hbm[of_kind] == LEAVING]
            if self.size[leaving].sum() != self.leaving_blocks[kind]:
                raise AssertionError(f"leaving_blocks[{kind}] is {self.leaving_blocks[kind]}, not the nodes' sum")
        leaves = nodes[(self.hbm[nodes] == PRESENT) & (self.hbm_children[nodes] == 0) & (self.size[nodes] > 0)]
        _none(leaves, ~np.isin(leaves, self._hbm_leaves.read()), "is a leaf that eviction would never find")
        on_host = nodes[self._is_host_leaf(nodes)]
        _none(on_host, ~np.isin(on_host, self._host_leaves.read()), "has a host copy that would never be dropped")
        for label, node in self._index.items():
            if self.labels[node] != label or not self.in_use[node]:
                raise AssertionError(f"label {label:x} leads to node {node}, which does not carry it")


def _none(nodes: Indices, bad: Mask, fault: str) -> None:
    if bad.any():
        raise AssertionError(f"node {int(nodes[bad][0])} {fault}")
