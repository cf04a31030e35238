"""HALP on the dependency tree (Song et al., NSDI 2023): a heuristic proposes, a learned preference decides."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from baselines.node_state import HbmRanker, in_hbm
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import Indices, RankingContext, Scores
from libra.cache.tree import DependencyTree

Matrix = npt.NDArray[np.float64]
NUM_FEATURES = 8
# Scores are rounded, so that the last bits of a matrix product decide nothing.
DECIMALS = 9


class PreferenceNetwork:
    """One hidden layer of rectified units, trained on pairs: which of two nodes was used again first?"""

    def __init__(self, num_features: int, num_hidden: int, learning_rate: float, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._hidden = generator.normal(0.0, num_features**-0.5, (num_features, num_hidden))
        self._bias = np.zeros(num_hidden)
        self._output = generator.normal(0.0, num_hidden**-0.5, num_hidden)
        self._rate = learning_rate

    def values(self, features: Matrix) -> Scores:
        """One value per row of ``features``: higher = used again sooner."""
        values: Scores = np.maximum(features @ self._hidden + self._bias, 0.0) @ self._output
        return values

    def learn(self, sooner: Matrix, later: Matrix) -> None:
        """One step down the logistic loss of value(sooner) > value(later)."""
        pair = np.stack([sooner, later])
        active = np.maximum(pair @ self._hidden + self._bias, 0.0)
        margin = float((active[0] - active[1]) @ self._output)
        step = self._rate / (1.0 + np.exp(np.clip(margin, -30.0, 30.0))) * np.array([1.0, -1.0])
        through = step[:, None] * (active > 0) * self._output
        self._output += step @ active
        self._hidden += pair.T @ through
        self._bias += through.sum(axis=0)


@dataclass
class _Learning:
    """``open_pairs``: by label, the pairs that its next use settles: (partner's label, own features, partner's)."""

    network: PreferenceNetwork
    generator: np.random.Generator
    open_pairs: OrderedDict[int, tuple[int, Matrix, Matrix]] = field(default_factory=OrderedDict)
    ranked: RankingContext | None = None
    windows: Matrix = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Halp(HbmRanker):
    """Recency splits what may leave into ``windows`` of equal numbers, oldest first; inside a window the network says
    who leaves. Every eviction is paired with a node that stayed, and whichever is used first teaches the network.

    The original decides among four candidates at a time, one eviction at a time. Here hundreds of blocks leave at once,
    so that the candidates are a window of the ranking. Features: log of idle time, age, decayed visits, the adapter's
    idle time and visits; kind; depth; size. Sizes need no weighting: what a block costs to bring back is the same.
    """

    windows: int = 4
    num_hidden: int = 16
    learning_rate: float = 0.02
    max_open_pairs: int = 2048
    seed: int = 0
    _state: _Learning = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        network = PreferenceNetwork(NUM_FEATURES, self.num_hidden, self.learning_rate, self.seed)
        object.__setattr__(self, "_state", _Learning(network, np.random.default_rng([self.seed, 1])))

    def victim_score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        state = self._state
        if state.ranked is not context:
            last_use = tree.last_use[in_hbm(tree) & (tree.pins == 0)]
            shares = np.arange(1, self.windows) / self.windows
            # An order statistic, so that equal sets of nodes have equal windows.
            state.windows = np.quantile(last_use, shares, method="lower") if len(last_use) else np.zeros(0)
            state.ranked = context
        window = np.searchsorted(state.windows, tree.last_use[nodes])
        values = np.round(state.network.values(self._features(tree, nodes, context.now_s)), DECIMALS)
        return window + 0.5 + np.arctan(values) / (np.pi + 1e-6)

    def _features(self, tree: DependencyTree, nodes: Indices, now_s: float) -> Matrix:
        """[len(nodes), NUM_FEATURES], each roughly between -1 and 2."""
        adapters = tree.adapter[nodes]
        columns = (
            np.log1p(now_s - tree.last_use[nodes]) / 4.0,
            np.log1p(now_s - tree.created[nodes]) / 4.0,
            np.maximum(tree.log_visits_at(nodes, now_s), -4.0) / 4.0,
            np.log1p(now_s - tree.last_use[adapters]) / 4.0,
            np.maximum(tree.log_visits_at(adapters, now_s), -4.0) / 4.0,
            tree.is_adapter[nodes],
            np.log1p(tree.depth[nodes]) / 4.0,
            np.log1p(tree.size[nodes]) / 4.0,
        )
        return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)

    def on_hit(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._settle(tree, nodes)

    def on_insert(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        self._settle(tree, nodes)

    def _settle(self, tree: DependencyTree, nodes: Indices) -> None:
        """Closes the pairs of the nodes that are used: their partners have not been, so these were worth more."""
        state = self._state
        if not state.open_pairs:
            return
        for node in nodes.tolist():
            pair = state.open_pairs.pop(tree.labels[node], None)
            if pair is not None:
                partner, own, others = pair
                state.open_pairs.pop(partner, None)
                state.network.learn(own, others)

    def on_leave(self, tree: DependencyTree, nodes: Indices, now_s: float) -> None:
        """Opens a pair of the first victim and a node that stays. One a batch: those of one batch are much alike."""
        state = self._state
        stay = in_hbm(tree) & (tree.pins == 0)
        stay[nodes] = False
        staying = np.flatnonzero(stay)
        if len(staying) == 0:
            return
        pair = np.array([int(nodes[0]), int(state.generator.choice(staying))], dtype=np.intp)
        left, stayed = (tree.labels[node] for node in pair.tolist())
        features = self._features(tree, pair, now_s)
        for label, partner, own, others in (
            (left, stayed, features[0], features[1]),
            (stayed, left, features[1], features[0]),
        ):
            known = state.open_pairs.pop(label, None)
            if known is not None:
                state.open_pairs.pop(known[0], None)
            state.open_pairs[label] = (partner, own, others)
        while len(state.open_pairs) > self.max_open_pairs:
            state.open_pairs.pop(state.open_pairs.popitem(last=False)[1][0], None)


HALP = replace(
    FASTLIBRA, name="halp", summary="fastlibra with HALP in place of the cost model (NSDI 2023)", ranker=Halp()
)
