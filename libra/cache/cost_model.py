"""FASTLIBRA's cost model, Eq. 3 to 6 (systems as in arXiv 2505.03756 and its HPCA 2026 version).

Everything is computed in the log domain: the published Eq. 5 falls to exactly 0 in double precision for a node that
has not been used for 37 tau, and all older nodes would tie.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from libra.cache.policy import Indices, Ranker, RankingContext, Scores, Swap
from libra.cache.tree import DependencyTree
from libra.errors import LibraError

Eq4 = Literal["hpca", "v1", "lora_only"]
# Adapter counts of zero would make Eq. 4 zero or infinite for every node at once, which ranks nothing.
SMALLEST_COUNT = 1e-9


def low_lora(shares: npt.NDArray[np.float64], batch_size: float) -> float:
    """Eq. 3: how many adapters a batch is expected to use.

    ``shares``: each adapter's share of recent requests, [num_adapters]. ``batch_size``: mean of the last 5 s.
    """
    return float((1.0 - (1.0 - shares) ** batch_size).sum())


def log_adapter_eval(
    reading: Eq4, is_adapter: npt.NDArray[np.bool_], swap: Swap, adapters_in_hbm: int, low: float
) -> Scores:
    """Log of Eq. 4 for each node, [len(is_adapter)].

    Now_LoRA is the count *after* the swap in question, so it differs by one between an adapter node and a KV node.
    ``hpca``: min(1, now/low) on every node; ``v1``: max(1, low/now) on every node; ``lora_only``: max(1, low/now) on
    adapter nodes and 1 on KV nodes, the reading that is right in both swap directions.
    """
    after_swap = adapters_in_hbm + (1 if swap == "in" else -1)
    of_adapters = math.log(max(low, SMALLEST_COUNT) / max(after_swap, SMALLEST_COUNT))
    of_kv = math.log(max(low, SMALLEST_COUNT) / max(adapters_in_hbm, SMALLEST_COUNT))
    if reading == "hpca":
        return np.where(is_adapter, min(0.0, -of_adapters), min(0.0, -of_kv))
    return np.where(is_adapter, max(0.0, of_adapters), max(0.0, of_kv) if reading == "v1" else 0.0)


def log_recency(idle_s: npt.NDArray[np.float64], tau_s: float) -> Scores:
    """Log of Eq. 5's last factor, 1 - sigmoid(t / tau): about -t/tau for t >> tau, and never -inf."""
    x = idle_s / tau_s
    # log(1 - sigmoid(x)) = -x - log(1 + exp(-x)) for x >= 0, and idle times are never negative.
    log_share: Scores = -(x + np.log1p(np.exp(-x)))
    return log_share


@dataclass(frozen=True)
class CostModel(Ranker):
    """Eq. 6: adapter_eval * cost * visits * recency, as a sum of logs. Eq. 4 counts adapters in HBM, so it has no say
    over what leaves host memory.

    ``tau_s`` and the Eq. 4 reading are not fixed by the paper; results/tuning/ holds the measurements behind the
    defaults. The four switches are the paper's ablations WOL, WOC, WOV and WOU.
    """

    tau_s: float = 5.0
    eq4: Eq4 = "lora_only"
    use_adapter_eval: bool = True
    use_cost: bool = True
    use_visits: bool = True
    use_recency: bool = True

    def __post_init__(self) -> None:
        if not self.tau_s > 0:
            raise LibraError(f"cost model: tau_s must be > 0, got {self.tau_s}")

    @property
    def depends_on_adapter_count(self) -> bool:  # type: ignore[override]
        return self.use_adapter_eval

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        scores = np.zeros(len(nodes))
        idle_s = context.now_s - tree.last_use[nodes]
        if self.use_cost:
            scores += tree.log_bytes[nodes] - math.log(context.link_bytes_per_s)
        if self.use_visits:
            scores += tree.log_visits_after(idle_s, nodes)
        if self.use_recency:
            scores += log_recency(idle_s, self.tau_s)
        if self.use_adapter_eval and context.tier == "hbm":
            scores += log_adapter_eval(
                self.eq4, tree.is_adapter[nodes], context.swap, context.adapters_in_hbm, context.low_lora
            )
        return scores
