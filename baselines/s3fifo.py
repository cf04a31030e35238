"""S3-FIFO on the dependency tree (Yang et al., SOSP 2023)."""

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

MAX_COUNT = 3
# Places in a queue stay far below this, so that it separates groups of scores.
FAR = float(2**40)


@dataclass
class _Queues:
    """By node: ``in_main`` (0 = small queue), ``count`` of uses since it was queued, ``place`` in its queue. ``ranked``
    and ``small_until``: the ranking at hand, and the place up to which the small queue is above its share."""

    in_main: Column = field(default_factory=new_column)
    count: Column = field(default_factory=new_column)
    place: Column = field(default_factory=new_column)
    num_places: int = 0
    has_evicted: bool = False
    ghosts: Ghosts = field(default_factory=Ghosts)
    ranked: RankingContext | None = None
    small_until: float = -np.inf

    def fit(self, tree: DependencyTree) -> None:
        self.in_main, self.count, self.place = (fitted(c, tree) for c in (self.in_main, self.count, self.place))

    def append(self, nodes: Indices) -> None:
        """Puts ``nodes`` last in their queue, in order; ones that come together share a place."""
        self.num_places += 1
        self.place[nodes] = self.num_places


@dataclass(frozen=True)
class S3Fifo(HbmRanker):
    """Two queues: new nodes enter the small one (``small_share`` of the blocks), those the ghosts remember the main.
    At the small queue's end a node used ``promote_after`` times or more since moves to main, any other leaves and is
    remembered. At the main queue's end a used node goes round again with one use less.

    Until the first eviction what the small queue has no room for enters main, as in the authors' present version
    (libCacheSim). Queues count blocks; nodes computed together share a place, and the tail of a path leaves before its
    head. A node that has children in HBM is passed over at the queue's end and leaves when they have. One that comes
    back ahead of need returns to the queue it left.
    """

    small_share: float = 0.1
    promote_after: int = 2
    _state: _Queues = field(default_factory=_Queues, init=False, repr=False, compare=False)

    def victim_score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        """Small queue beyond its share < main, by rounds to go < promoted on the way < rest of the small queue."""
        state = self._state
        state.fit(tree)
        if state.ranked is not context:
            self._find_surplus(tree)
            state.ranked = context
        place, count = state.place[nodes], state.count[nodes]
        small = np.where(place <= state.small_until, 0.0, 3.0 + MAX_COUNT) * FAR
        main = (1.0 + count) * FAR
        promoted = (1.0 + MAX_COUNT + 1.0) * FAR
        in_main = state.in_main[nodes] == 1
        return place + np.where(in_main, main, np.where(count >= self.promote_after, promoted, small))

    def _find_surplus(self, tree: DependencyTree) -> None:
        state, held = self._state, in_hbm(tree)
        small = held & (state.in_main == 0)
        staying = state.count >= self.promote_after
        # At its share the small queue gives way as well: whatever room is for enters it.
        surplus = blocks_of(tree, small & ~staying) - self.small_share * blocks_of(tree, held) + 1
        state.small_until = oldest(tree, small & ~staying & (tree.pins == 0), state.place, surplus)

    def on_hit(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        """What is not in HBM follows by ``on_enter``: it is a miss."""
        self._state.fit(tree)
        hits = nodes[in_hbm(tree)[nodes]]
        self._state.count[hits] = np.minimum(self._state.count[hits] + 1, MAX_COUNT)

    def on_insert(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        state = self._state
        state.fit(tree)
        held = in_hbm(tree)
        small = blocks_of(tree, held & (state.in_main == 0))
        is_filling = not state.has_evicted and small > self.small_share * blocks_of(tree, held)
        remembered = [state.ghosts.discard(label) for label, _ in labels_and_sizes(tree, nodes)]
        state.in_main[nodes] = np.array(remembered) | is_filling
        state.count[nodes] = 0
        state.append(nodes)

    def on_enter(self, tree: DependencyTree, nodes: Indices, now_s: float, prefetched: bool) -> None:
        state = self._state
        state.fit(tree)
        queues = state.in_main[nodes]
        self.on_insert(tree, nodes, now_s)
        if prefetched:
            state.in_main[nodes] = queues

    def on_leave(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        """Moves both queues' ends past ``nodes``, and remembers those that left the small one."""
        state = self._state
        state.fit(tree)
        state.has_evicted = True
        stay = in_hbm(tree)
        stay[nodes] = False
        in_main = state.in_main[nodes] == 1
        self._pass_small(stay, nodes[~in_main])
        self._pass_main(stay, nodes[in_main])
        for label, size in labels_and_sizes(tree, nodes[~in_main]):
            state.ghosts.add(label, size)
        state.ghosts.shrink_to((1.0 - self.small_share) * blocks_of(tree, in_hbm(tree)))

    def _pass_small(self, stay: Mask, left: Indices) -> None:
        state = self._state
        if len(left) == 0:
            return
        promoted = stay & (state.in_main == 0) & (state.place <= state.place[left].max())
        promoted &= state.count >= self.promote_after
        self._requeue(np.flatnonzero(promoted), counts=0.0)
        state.in_main[promoted] = 1

    def _pass_main(self, stay: Mask, left: Indices) -> None:
        """The end has gone ``rounds`` times round the queue, and once more up to the last of ``left``."""
        state = self._state
        if len(left) == 0:
            return
        rounds = state.count[left].max()
        last = state.place[left][state.count[left] == rounds].max()
        passes = np.where(state.place < last, rounds + 1, rounds)
        passed = np.flatnonzero(stay & (state.in_main == 1) & (state.count > 0) & (passes > 0))
        self._requeue(passed, np.maximum(state.count[passed] - passes[passed], 0.0))

    def _requeue(self, nodes: Indices, counts: Column | float) -> None:
        """Puts ``nodes`` last in the main queue, keeping their order."""
        state = self._state
        state.count[nodes] = counts
        places = np.unique(state.place[nodes], return_inverse=True)[1]
        state.place[nodes] = state.num_places + 1 + places
        state.num_places += int(places.max(initial=-1)) + 1


S3FIFO = replace(
    FASTLIBRA, name="s3fifo", summary="fastlibra with S3-FIFO in place of the cost model (SOSP 2023)", ranker=S3Fifo()
)
