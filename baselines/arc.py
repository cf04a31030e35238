"""Adaptive replacement cache on the dependency tree (Megiddo and Modha, FAST 2003)."""

from dataclasses import dataclass, field, replace

import numpy as np

from baselines.node_state import (
    Column,
    Ghosts,
    HbmRanker,
    blocks_of,
    fitted,
    in_hbm,
    labels_and_sizes,
    new_column,
    oldest,
)
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import Indices, RankingContext, Scores
from libra.cache.tree import DependencyTree, Mask


@dataclass
class _Lists:
    """``in_t2``: 1 for nodes used twice or more. ``target``: blocks that T1, the rest, should hold. ``ranked`` and
    ``t1_until``: the ranking at hand, and the last use up to which T1 is above its target."""

    in_t2: Column = field(default_factory=new_column)
    target: float = 0.0
    b1: Ghosts = field(default_factory=Ghosts)
    b2: Ghosts = field(default_factory=Ghosts)
    ranked: RankingContext | None = None
    t1_until: float = -np.inf


@dataclass(frozen=True)
class AdaptiveReplacement(HbmRanker):
    """T1 holds what was used once, T2 what was used again, both by last use; B1 and B2 remember what left them. A miss
    that B1 remembers raises T1's target, one that B2 does lowers it; the least recent of T1 leaves while T1 is above
    its target, else the least recent of T2.

    Lists and target count blocks, so that an adapter weighs as much as the KV it displaces, and the cache's size is
    what the tree holds of HBM at the moment: running requests take the rest. A node that comes back ahead of need was
    not asked for: it returns to the list it left and moves no target.
    """

    _state: _Lists = field(default_factory=_Lists, init=False, repr=False, compare=False)

    def victim_score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        state = self._state
        in_t2 = fitted(state.in_t2, tree)
        if state.ranked is not context:
            t1 = in_hbm(tree) & (in_t2 == 0)
            state.t1_until = oldest(tree, t1 & (tree.pins == 0), tree.last_use, blocks_of(tree, t1) - state.target)
            state.ranked = context
        last_use = tree.last_use[nodes]
        group = np.where(in_t2[nodes] == 1, 1.0, np.where(last_use <= state.t1_until, 0.0, 2.0))
        return group * (context.now_s + 1.0) + last_use

    def on_hit(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        """What is not in HBM follows by ``on_enter``: it is a miss."""
        state = self._state
        state.in_t2 = fitted(state.in_t2, tree)
        state.in_t2[nodes[in_hbm(tree)[nodes]]] = 1

    def on_insert(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        state = self._state
        state.in_t2 = fitted(state.in_t2, tree)
        size_of_cache = blocks_of(tree, in_hbm(tree))
        for node, (label, size) in zip(nodes.tolist(), labels_and_sizes(tree, nodes), strict=True):
            state.in_t2[node] = self._remembers(label, size, size_of_cache)

    def _remembers(self, label: int, size: int, size_of_cache: int) -> bool:
        """Whether a ghost list remembers ``label``; moves the target and forgets it there."""
        state = self._state
        b1, b2 = max(state.b1.num_blocks, 1), max(state.b2.num_blocks, 1)
        if state.b1.discard(label):
            state.target = min(state.target + size * max(1.0, b2 / b1), float(size_of_cache))
            return True
        if state.b2.discard(label):
            state.target = max(state.target - size * max(1.0, b1 / b2), 0.0)
            return True
        return False

    def on_enter(self, tree: DependencyTree, nodes: Indices, now_s: float, prefetched: bool) -> None:
        if not prefetched:
            self.on_insert(tree, nodes, now_s)
            return
        self._state.in_t2 = fitted(self._state.in_t2, tree)
        for label, _ in labels_and_sizes(tree, nodes):
            self._state.b1.discard(label)
            self._state.b2.discard(label)

    def on_leave(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        state = self._state
        for node, (label, size) in zip(nodes.tolist(), labels_and_sizes(tree, nodes), strict=True):
            (state.b2 if state.in_t2[node] == 1 else state.b1).add(label, size)
        held: Mask = in_hbm(tree)
        size_of_cache = blocks_of(tree, held)
        held[nodes] = False
        # |T1| + |B1| stay within the cache's size, and all four lists together within twice that.
        t1 = blocks_of(tree, held & (state.in_t2 == 0))
        state.b1.shrink_to(max(size_of_cache - t1, 0))
        state.b2.shrink_to(2 * size_of_cache - blocks_of(tree, held) - state.b1.num_blocks)


ARC = replace(
    FASTLIBRA, name="arc", summary="fastlibra with ARC in place of the cost model", ranker=AdaptiveReplacement()
)
