"""Drift: arrivals at a constant rate while the hot set moves, so that yesterday's frequencies mislead a cache."""

import math
from dataclasses import dataclass

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import Arrivals, FloatArray, IntArray, Renewal

MIN_PERIOD_S = 1.0


@dataclass(frozen=True)
class SwapRanking:
    """The order of popularity as a sequence of swaps, from adapter i on rank i: at ``times[k]`` (ascending) the holders
    of the ranks ``pairs[k]`` change places. ``pairs`` has shape [swaps, 2]."""

    num_adapters: int
    times: FloatArray
    pairs: IntArray

    def holders(self, times: FloatArray, ranks: IntArray) -> IntArray:
        """The adapter that holds ``ranks[i]`` at ``times[i]``, for ascending times."""
        order = np.arange(self.num_adapters)
        held = np.empty(len(times), dtype=np.int64)
        ends = np.searchsorted(times, self.times).tolist()
        start = 0
        for (one, other), end in zip(self.pairs.tolist(), ends, strict=True):
            if end > start:
                held[start:end] = order[ranks[start:end]]
                start = end
            order[one], order[other] = order[other], order[one]
        held[start:] = order[ranks[start:]]
        return held


@dataclass(frozen=True)
class Drift:
    """Poisson arrivals (or of the Gamma shape ``burstiness``) while popularity changes hands: at random times, as a
    Poisson process, two random adapters swap their places in the order of popularity, so often that an adapter keeps
    its place for ``period_s`` on average. The shape of the popularity stays as it is; who is popular changes.
    """

    period_s: float
    burstiness: float = 1.0
    source: str = "generated"

    def __post_init__(self) -> None:
        if not MIN_PERIOD_S <= self.period_s < math.inf:
            raise LibraError(f"--arrivals drift:{self.period_s:g}: PERIOD_S is {MIN_PERIOD_S:g} s or longer")

    def sample(
        self, rng: np.random.Generator, rate: float, start_s: float, end_s: float, num_adapters: int
    ) -> Arrivals:
        arrivals = Renewal(self.burstiness).sample(rng, rate, start_s, end_s, num_adapters)
        return Arrivals(
            arrivals.times,
            ranking=self._ranking(rng, start_s, end_s, num_adapters),
            parameters={**arrivals.parameters, "drift_period_s": self.period_s},
        )

    def _ranking(self, rng: np.random.Generator, start_s: float, end_s: float, num_adapters: int) -> SwapRanking:
        # A swap moves 2 of n adapters, so each moves at rate 1 / period_s when swaps come at rate n / (2 period_s).
        expected = num_adapters * (end_s - start_s) / (2 * self.period_s)
        swaps = int(rng.poisson(expected)) if num_adapters > 1 else 0
        one = rng.integers(num_adapters, size=swaps)
        other = (one + rng.integers(1, max(num_adapters, 2), size=swaps)) % num_adapters
        return SwapRanking(num_adapters, np.sort(rng.uniform(start_s, end_s, swaps)), np.stack((one, other), axis=1))
