"""Random generators that depend on a seed and a name alone, so that one choice does not shift another."""

import numpy as np
from xxhash import xxh3_64_intdigest


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each ``purpose``: changing how many lengths are drawn leaves the arrivals alone."""
    return np.random.default_rng([seed, xxh3_64_intdigest(purpose.encode())])
