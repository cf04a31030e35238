"""Hawkeye on the dependency tree (Jain and Lin, ISCA 2016)."""

from dataclasses import dataclass, field, replace

import numpy as np

from baselines.node_state import Column, HbmRanker, blocks_of, fitted, in_hbm, labels_and_sizes, new_column
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import Indices, RankingContext, Scores
from libra.cache.tree import DependencyTree

# The paper's constants: eight caches' worth of history, 3-bit counters that begin undecided.
HISTORY = 8
COUNTER_MAX, FRIENDLY_FROM = 7, 4
LEVELS = 64  # depths are told apart by their bit length, which is below this


class OptGen:
    """What Belady's policy would have kept: for each use, whether the one before it would have been a hit.

    Time is counted in uses. ``occupancy[t]`` is how many blocks the policy would have held over use ``t``: a node is
    kept from one use to the next if it fits at every moment between.
    """

    def __init__(self) -> None:
        self._occupancy = np.zeros(1024)
        self._now = 0
        self._uses: dict[int, tuple[int, int]] = {}

    def use(self, label: int, size: float, signature: int, capacity: float) -> tuple[int, bool] | None:
        """Notes a use. Returns the signature of the use before and whether it would have been a hit; None for the
        first use in living memory."""
        if self._now == len(self._occupancy):
            self._forget(_horizon(capacity))
        before = self._uses.pop(label, None)
        self._uses[label] = (self._now, signature)
        self._now += 1
        if before is None:
            return None
        since = self._occupancy[before[0] : self._now - 1]
        fits = float(since.max(initial=0.0)) + size <= capacity
        if fits:
            since += size
        return before[1], fits

    def expired(self, capacity: float) -> list[int]:
        """Signatures of uses that lie too far back for any cache of this size, forgotten herewith."""
        horizon = self._now - _horizon(capacity)
        gone: list[int] = []
        # Uses are kept in order: the oldest come first.
        while self._uses and (oldest := next(iter(self._uses.items())))[1][0] < horizon:
            del self._uses[oldest[0]]
            gone.append(oldest[1][1])
        return gone

    def _forget(self, length: int) -> None:
        """Drops all but the last ``length`` moments, and makes room for as many more."""
        kept = self._occupancy[-length:] if length < self._now else self._occupancy
        dropped = self._now - len(kept)
        self._occupancy = np.concatenate([kept, np.zeros(max(len(kept), 1024))])
        self._uses = {label: (t - dropped, s) for label, (t, s) in self._uses.items() if t >= dropped}
        self._now -= dropped


def _horizon(capacity: float) -> int:
    """How many uses back a cache of ``capacity`` blocks can remember."""
    return HISTORY * max(int(capacity), 1)


@dataclass
class _Training:
    friendly: Column = field(default_factory=new_column)
    signature: Column = field(default_factory=new_column)
    counters: dict[int, int] = field(default_factory=dict)
    optgen: OptGen = field(default_factory=OptGen)


@dataclass(frozen=True)
class Hawkeye(HbmRanker):
    """Learns from Belady's decisions on the past which kinds of node are worth keeping. Averse nodes leave first, then
    friendly ones, each the least recently used first; a friendly node that has to leave speaks against its kind.

    The kind, for which the original takes the program counter of the load, is the adapter and the magnitude of the
    depth below it: conversations of one adapter behave alike, and the head of a prompt differs from its tail. One KV
    node in ``sample`` is followed, for that part of the cache; all adapters are, with that part of their size, as each
    is a kind of its own. Occupancy counts blocks, so that an adapter must fit whole. The cache's size is what the tree
    holds of HBM at the moment.
    """

    sample: int = 4
    _state: _Training = field(default_factory=_Training, init=False, repr=False, compare=False)

    def victim_score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        friendly = fitted(self._state.friendly, tree)[nodes]
        return friendly * (context.now_s + 1.0) + tree.last_use[nodes]

    def on_hit(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._use(tree, nodes)

    def on_insert(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._use(tree, nodes)

    def on_leave(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        state = self._state
        state.friendly, state.signature = fitted(state.friendly, tree), fitted(state.signature, tree)
        for signature in state.signature[nodes[state.friendly[nodes] == 1]].tolist():
            self._train(int(signature), would_hit=False)

    def _use(self, tree: DependencyTree, nodes: Indices) -> None:
        state = self._state
        state.friendly, state.signature = fitted(state.friendly, tree), fitted(state.signature, tree)
        levels = np.frexp(tree.depth[nodes])[1]
        signatures = tree.adapter[nodes] * LEVELS + levels
        capacity = blocks_of(tree, in_hbm(tree)) / self.sample
        kinds = zip(tree.is_adapter[nodes].tolist(), signatures.tolist(), strict=True)
        for (label, size), (is_adapter, signature) in zip(labels_and_sizes(tree, nodes), kinds, strict=True):
            if is_adapter or label % self.sample == 0:
                weight = size / self.sample if is_adapter else float(size)
                verdict = state.optgen.use(label, weight, signature, capacity)
                if verdict is not None:
                    self._train(*verdict)
        for signature in state.optgen.expired(capacity):
            self._train(signature, would_hit=False)
        state.signature[nodes] = signatures
        state.friendly[nodes] = [state.counters.get(s, FRIENDLY_FROM) >= FRIENDLY_FROM for s in signatures.tolist()]

    def _train(self, signature: int, would_hit: bool) -> None:
        counters = self._state.counters
        count = counters.get(signature, FRIENDLY_FROM) + (1 if would_hit else -1)
        counters[signature] = min(max(count, 0), COUNTER_MAX)


HAWKEYE = replace(
    FASTLIBRA, name="hawkeye", summary="fastlibra with Hawkeye in place of the cost model (ISCA 2016)", ranker=Hawkeye()
)
