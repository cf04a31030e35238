"""How often each adapter is asked for. Distributions are named by what they are (traces' trap list: S-LoRA's
``alpha`` is a power function's exponent and Punica's ``zipf:1.5`` is geometric; neither is offered under that name)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from libra.errors import LibraError
from libra.registry import Registry
from workloads.arrivals import FloatArray, IntArray

DEFAULT_POPULARITY = "zipf:1.0"


class Popularity(Protocol):
    """Chooses an adapter for each session; adapter 0 is the most popular. Where arrivals have a Ranking, these are
    ranks, and it says which adapter holds them when."""

    def assign(self, rng: np.random.Generator, count: int, num_adapters: int) -> IntArray:
        """``count`` adapter indices below ``num_adapters``. Advances ``rng`` only."""


@dataclass(frozen=True)
class Zipf:
    """Weight rank ** -exponent: Zipf's law over a finite set. Exponent 0 is uniform."""

    exponent: float

    def assign(self, rng: np.random.Generator, count: int, num_adapters: int) -> IntArray:
        return _draw(rng, np.arange(1.0, num_adapters + 1) ** -self.exponent, count)


@dataclass(frozen=True)
class Gaussian:
    """Weight exp(-(i/n)^2 / 2 std^2) for adapter i of n: our reading of the paper's "Skewed-x" (HPCA version,
    section VIII-I), a Gaussian of standard deviation x over the adapters' index scaled to 0..1."""

    std: float

    def assign(self, rng: np.random.Generator, count: int, num_adapters: int) -> IntArray:
        if self.std == 0:
            return np.zeros(count, dtype=np.int64)
        return _draw(rng, np.exp(-0.5 * (np.arange(num_adapters) / (num_adapters * self.std)) ** 2), count)


@dataclass(frozen=True)
class Distinct:
    """Every session the next adapter in turn, so that neighbours never share one (Punica's "distinct")."""

    def assign(self, rng: np.random.Generator, count: int, num_adapters: int) -> IntArray:
        return np.arange(count, dtype=np.int64) % num_adapters


@dataclass(frozen=True)
class Identical:
    """Every session the same adapter (Punica's "identical")."""

    def assign(self, rng: np.random.Generator, count: int, num_adapters: int) -> IntArray:
        return np.zeros(count, dtype=np.int64)


@dataclass(frozen=True)
class Kind:
    """A distribution as the command line names it: ``name`` or ``name:value``."""

    build: Callable[[float], Popularity]
    default: float | None
    takes_value: bool = True


POPULARITIES: Registry[Kind] = Registry("popularity")
POPULARITIES.add("zipf", Kind(Zipf, 1.0))
POPULARITIES.add("gaussian", Kind(Gaussian, None))
POPULARITIES.add("uniform", Kind(lambda _: Zipf(0.0), 0.0, takes_value=False))
POPULARITIES.add("distinct", Kind(lambda _: Distinct(), 0.0, takes_value=False))
POPULARITIES.add("identical", Kind(lambda _: Identical(), 0.0, takes_value=False))


def parse_popularity(spec: str) -> Popularity:
    """The distribution of ``name`` or ``name:value``, such as ``zipf:1.2``. Raises LibraError for anything else."""
    name, colon, value = spec.partition(":")
    kind = POPULARITIES[name]
    if not colon and kind.default is not None:
        return kind.build(kind.default)
    if colon and not kind.takes_value:
        raise LibraError(f"popularity {spec!r}: {name} takes no value; write {name}")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 100:
        raise LibraError(f"popularity {spec!r}: write {name}:NUMBER with a number from 0 to 100, such as {name}:1.0")
    return kind.build(number)


def _draw(rng: np.random.Generator, weights: FloatArray, count: int) -> IntArray:
    edges = np.cumsum(weights)
    drawn = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
    chosen: IntArray = np.minimum(drawn, len(weights) - 1).astype(np.int64)
    return chosen
