"""When things arrive: processes that a generator samples session starts from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from libra.errors import LibraError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
MIN_BURSTINESS = 0.01


class Ranking(Protocol):
    """Which adapter is how popular, and when: a distribution draws ranks, and a ranking says who holds them."""

    def holders(self, times: FloatArray, ranks: IntArray) -> IntArray:
        """The adapter that holds ``ranks[i]`` at ``times[i]``, for ascending times."""


@dataclass(frozen=True)
class Arrivals:
    """Times in seconds, ascending, and the adapter index of each where the process brings its own.

    ``ranking`` None: adapter i holds rank i all the time. ``parameters`` and ``warnings`` go to the trace's header.
    """

    times: FloatArray
    adapters: IntArray | None = None
    ranking: Ranking | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class ArrivalProcess(Protocol):
    """A source of arrivals."""

    @property
    def source(self) -> str:
        """Its provenance, one of workloads.header.SOURCES."""

    def sample(
        self, rng: np.random.Generator, rate: float, start_s: float, end_s: float, num_adapters: int
    ) -> Arrivals:
        """Arrivals in [start_s, end_s), an expected ``rate`` per second over [0, end_s). Advances ``rng`` only."""


@dataclass(frozen=True)
class Renewal:
    """Independent Gamma gaps. ``burstiness`` is the shape, as in ``vllm bench serve``: 1 is Poisson, less is burstier
    (CV = burstiness ** -0.5), inf is a constant gap."""

    burstiness: float = 1.0
    source: str = "generated"

    def __post_init__(self) -> None:
        check_burstiness(self.burstiness)

    def sample(
        self, rng: np.random.Generator, rate: float, start_s: float, end_s: float, num_adapters: int
    ) -> Arrivals:
        times = renewal_times(rng, self.burstiness, rate, start_s, end_s)
        return Arrivals(times, parameters={"burstiness": shown_burstiness(self.burstiness)})


def renewal_times(rng: np.random.Generator, burstiness: float, rate: float, start_s: float, end_s: float) -> FloatArray:
    """Times in [start_s, end_s) with independent Gamma gaps of mean 1 / rate, the first counted from ``start_s``."""
    expected = rate * (end_s - start_s)
    chunk = int(expected * 1.05) + 64
    times = np.empty(0)
    last = start_s
    while last < end_s:
        times = np.append(times, last + np.cumsum(gamma_gaps(rng, burstiness, chunk)) / rate)
        last = float(times[-1])
    return times[times < end_s]


def gamma_gaps(rng: np.random.Generator, burstiness: float, count: int) -> FloatArray:
    """``count`` gaps of mean 1. Advances ``rng``."""
    if math.isinf(burstiness):
        return np.ones(count)
    return rng.gamma(burstiness, 1.0 / burstiness, count)


def check_burstiness(burstiness: float) -> None:
    """Raises LibraError for a shape that a float cannot draw gaps of; inf is allowed."""
    if not burstiness >= MIN_BURSTINESS:
        raise LibraError(
            f"--burstiness is {burstiness}; it must be {MIN_BURSTINESS} or more (1 is Poisson, inf a constant gap)"
        )


def shown_burstiness(burstiness: float) -> float | str:
    """JSON has no infinity."""
    return "inf" if math.isinf(burstiness) else burstiness
