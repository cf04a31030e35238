"""A ranking by what the next use of a node is expected to be worth, learnt from the traffic at hand."""

from dataclasses import dataclass, field

import numpy as np

from libra.cache.policy import Indices, Ranker, RankingContext, Scores, Tier
from libra.cache.reuse_table import EDGES_S, NUM_CLASSES, WIDTHS_S, FloatArray, ReuseTable, bucket_of, exposure_of
from libra.cache.tree import DependencyTree
from libra.errors import LibraError

# How far ahead a use counts, in seconds, before the first evictions have told how long blocks last.
FIRST_HORIZON_S: dict[Tier, float] = {"hbm": 30.0, "host": 300.0}
# Weight of one more evicted block in the mean idle time of evicted blocks.
HORIZON_STEP = 1e-3


@dataclass(eq=False)
class ExpectedReuse(Ranker):
    """Score = E[exp(-time to next use / horizon)], per block, since a block of either kind costs as much to bring back.

    KV: from a table of how soon blocks like it were used again, by idle time and number of uses (ReuseTable), so that
    a session about to return stands above one that has just left and above one that is long gone. Adapters: requests
    for one arrive like a Poisson process, at the rate of its decayed visits, idle or not.
    The horizon of a tier is how long evicted blocks had been idle: what returns later than that could not be kept.
    The table is worked out anew every ``refresh_s``; its counts fade with ``half_life_s``.
    """

    refresh_s: float = 5.0
    half_life_s: float = 1200.0
    _table: ReuseTable = field(init=False, repr=False)
    _horizon_s: dict[Tier, float] = field(init=False, repr=False)
    _values: dict[Tier, FloatArray] = field(init=False, repr=False, default_factory=dict)
    _made_s: float = field(init=False, repr=False, default=-np.inf)

    def __post_init__(self) -> None:
        if not (self.refresh_s > 0 and self.half_life_s > 0):
            raise LibraError(f"expected reuse: refresh_s and half_life_s must be > 0, got {self}")
        self._table = ReuseTable(self.half_life_s)
        self._horizon_s = dict(FIRST_HORIZON_S)

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        if context.now_s >= self._made_s + self.refresh_s:
            self._refresh(tree, context.now_s)
        horizon_s = self._horizon_s[context.tier]
        scores = self._kv_values(tree, nodes, context)
        is_adapter = tree.is_adapter[nodes]
        # Decayed visits settle at rate / decay_rate; the wait of a Poisson process is exponential.
        expected = np.exp(tree.log_visits_at(nodes[is_adapter], context.now_s)) * tree.decay_rate * horizon_s
        scores[is_adapter] = expected / (1.0 + expected)
        return scores

    def _kv_values(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        """Values at the nodes' idle times, on the straight line between the ends of a bucket."""
        idle_s = _idle_s(tree, nodes, context.now_s)
        buckets, classes = bucket_of(idle_s), _classes(tree, nodes, context.now_s)
        values = self._values[context.tier]
        begin, end = values[classes, buckets], values[classes, buckets + 1]
        scores: Scores = begin + (end - begin) * (idle_s - EDGES_S[buckets]) / WIDTHS_S[buckets]
        return scores

    def _refresh(self, tree: DependencyTree, now_s: float) -> None:
        idle = np.flatnonzero(tree.in_use & ~tree.is_adapter & (tree.pins == 0))
        still_idle_s = exposure_of(_classes(tree, idle, now_s), _idle_s(tree, idle, now_s))
        if self._values:
            self._table.fade(now_s - self._made_s)
        self._values = {tier: self._table.values(still_idle_s, s) for tier, s in self._horizon_s.items()}
        self._made_s = now_s

    def on_hit(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        kv = nodes[~tree.is_adapter[nodes]]
        idle_s = np.maximum(now_s - tree.previous_use[kv], 0.0)
        self._table.note_used(_classes(tree, kv, now_s, visits_since=1.0), idle_s)

    def on_leave(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._note_end("hbm", tree, nodes, now_s)

    def on_forget(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._note_end("host", tree, nodes, now_s)
        self._table.note_forgotten(_classes(tree, nodes, now_s), _idle_s(tree, nodes, now_s))

    def _note_end(self, tier: Tier, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        kv = nodes[~tree.is_adapter[nodes]]
        if len(kv):
            step = 1.0 - (1.0 - HORIZON_STEP) ** len(kv)
            mean_s = float(_idle_s(tree, kv, now_s).mean())
            self._horizon_s[tier] = max(1.0, self._horizon_s[tier] + step * (mean_s - self._horizon_s[tier]))


def _idle_s(tree: DependencyTree, nodes: Indices, now_s: float) -> FloatArray:
    idle_s: FloatArray = np.maximum(now_s - tree.last_use[nodes], 0.0)
    return idle_s


def _classes(tree: DependencyTree, nodes: Indices, now_s: float, visits_since: float = 0.0) -> Indices:
    """The class of each node by its decayed visits, those ``visits_since`` left out."""
    visits = np.maximum(np.exp(tree.log_visits_at(nodes, now_s)) - visits_since, 1.0)
    classes: Indices = np.minimum(np.ceil(np.log2(visits)), NUM_CLASSES - 1).astype(np.intp)
    return classes
