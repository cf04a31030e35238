"""Chameleon (Iliakopoulou et al., MICRO 2025, arXiv 2411.17741): S-LoRA with an adapter cache and a scheduler."""

import math
from dataclasses import dataclass, replace

import numpy as np

from baselines.slora import SLORA
from libra.cache.policy import Indices, Ranker, RankingContext, Scores
from libra.cache.tree import DependencyTree


@dataclass(frozen=True)
class ChameleonScore(Ranker):
    """Score = F * frequency + R * recency + S * size, each from 0 to 1 over the adapters, with the published weights.

    Frequency is the decayed visit count against the highest, recency the last use against now, size against the
    largest. The paper gives the weights and not the scales.
    """

    frequency_weight: float = 0.45
    recency_weight: float = 0.10
    size_weight: float = 0.45

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        adapters = np.flatnonzero(tree.is_adapter & (tree.size > 0))
        most = float(tree.log_visits_at(adapters, context.now_s).max(initial=-math.inf))
        frequency = np.exp(tree.log_visits_at(nodes, context.now_s) - most)
        recency = tree.last_use[nodes] / max(context.now_s, 1e-9)
        size = tree.size[nodes] / max(int(tree.size[adapters].max(initial=0)), 1)
        return self.frequency_weight * frequency + self.recency_weight * recency + self.size_weight * size


CHAMELEON = replace(
    SLORA,
    name="chameleon",
    summary="slora with idle adapters kept by Chameleon's score, and its multi-queue scheduler",
    ranker=ChameleonScore(),
    idle_adapters="keep",
    spare_queued=True,
    scheduler="multi_queue",
    # Each queue has tokens of its own, so that nobody starves behind those of another.
    max_pass_s=math.inf,
)

CHAMELEON_FCFS = replace(
    CHAMELEON,
    name="chameleon-fcfs",
    summary="chameleon's cache without its scheduler",
    scheduler="fcfs",
    max_pass_s=SLORA.max_pass_s,
)
