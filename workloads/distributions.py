"""Distributions of lengths and waits, each stated by its mean so that a published mean can be put in as it is."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from workloads.arrivals import FloatArray, IntArray


class Distribution(Protocol):
    """A positive quantity: tokens or seconds."""

    @property
    def mean(self) -> float:
        """The expected value."""

    def sample(self, rng: np.random.Generator, count: int) -> FloatArray:
        """``count`` independent values of this mean. Advances ``rng`` only."""


@dataclass(frozen=True)
class Exponential:
    mean: float

    def sample(self, rng: np.random.Generator, count: int) -> FloatArray:
        return rng.exponential(self.mean, count)


@dataclass(frozen=True)
class LogNormal:
    """``cv`` is the standard deviation over the mean, of the values and not of their logarithms."""

    mean: float
    cv: float

    def sample(self, rng: np.random.Generator, count: int) -> FloatArray:
        variance = math.log1p(self.cv**2)
        return rng.lognormal(math.log(self.mean) - variance / 2, math.sqrt(variance), count)


def whole_tokens(values: FloatArray, maximum: int) -> IntArray:
    """Token counts of 1 to ``maximum``: rounded to the nearest, which keeps the mean but for the clipped tails."""
    return np.clip(np.rint(values), 1, maximum).astype(np.int64)
