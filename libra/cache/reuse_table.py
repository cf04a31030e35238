"""How soon KV is used again, by how long it has been idle and how often it was used: counts, rates and values.

Survival analysis in buckets of idle time. A block that is used again after t seconds, or is forgotten, or is still
idle, was *exposed* for t seconds; uses over exposure is the rate (hazard) at which blocks of that kind are used again.
LHD (Beckmann et al., NSDI 2018) ranks by hit density in the same spirit, with evictions counted as ends of lives; here
the host tier lets us watch blocks for longer than HBM holds them.
"""

import numpy as np
import numpy.typing as npt

from libra.cache.policy import Indices

FloatArray = npt.NDArray[np.float64]

# Idle times in seconds, in steps of half an octave; the last bucket has no end.
EDGES_S: FloatArray = np.concatenate([[0.0], 2.0 ** np.arange(-2.0, 12.5, 0.5)])
WIDTHS_S: FloatArray = np.append(np.diff(EDGES_S), np.inf)
NUM_BUCKETS = len(EDGES_S)
# Blocks used 1, 2, 3-4, 5-8, 9-16 and more times lately.
NUM_CLASSES = 6
# A class with less exposure than this, in block-seconds, is judged by all classes together.
PRIOR_EXPOSURE_S = 64.0


def bucket_of(idle_s: FloatArray) -> Indices:
    """The bucket of each idle time."""
    buckets: Indices = np.searchsorted(EDGES_S, idle_s, side="right") - 1
    return buckets


def exposure_of(classes: Indices, idle_s: FloatArray) -> FloatArray:
    """Seconds that blocks of each class have spent in each bucket on their way to ``idle_s``: [classes, buckets]."""
    buckets = bucket_of(idle_s)
    reached = np.zeros((NUM_CLASSES, NUM_BUCKETS))
    np.add.at(reached, (classes, buckets), 1.0)
    passed = reached.sum(axis=1, keepdims=True) - np.cumsum(reached, axis=1)
    exposure = np.zeros_like(reached)
    exposure[:, :-1] = passed[:, :-1] * WIDTHS_S[:-1]
    np.add.at(exposure, (classes, buckets), idle_s - EDGES_S[buckets])
    return exposure


class ReuseTable:
    """Counts of uses and of exposure, [classes, buckets], that fade with a half-life so that the traffic may change."""

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._uses = np.zeros((NUM_CLASSES, NUM_BUCKETS))
        self._exposure_s = np.zeros((NUM_CLASSES, NUM_BUCKETS))

    def note_used(self, classes: Indices, idle_s: FloatArray) -> None:
        """Blocks were used again after ``idle_s``."""
        np.add.at(self._uses, (classes, bucket_of(idle_s)), 1.0)
        self._exposure_s += exposure_of(classes, idle_s)

    def note_forgotten(self, classes: Indices, idle_s: FloatArray) -> None:
        """Blocks are gone, unused for ``idle_s``: nobody will know whether they would have been used."""
        self._exposure_s += exposure_of(classes, idle_s)

    def fade(self, seconds: float) -> None:
        """Lets ``seconds`` pass over the counts."""
        factor = 0.5 ** (seconds / self._half_life_s)
        self._uses *= factor
        self._exposure_s *= factor

    def values(self, still_idle_s: FloatArray, horizon_s: float) -> FloatArray:
        """The expected worth of the next use at the beginning of each bucket: [classes, buckets + 1], 0 to 1.

        A use after t more seconds is worth exp(-t / horizon_s). ``still_idle_s``: the exposure of blocks that are idle
        now. With rate h in a bucket of width w and r = h + 1 / horizon_s, worked out from the last bucket backwards:
        value(begin) = h / r * (1 - exp(-r * w)) + exp(-r * w) * value(end).
        """
        exposure_s = self._exposure_s + still_idle_s
        pooled = (self._uses.sum(axis=0) + 1e-3) / (exposure_s.sum(axis=0) + 1.0)
        rates = (self._uses + PRIOR_EXPOSURE_S * pooled) / (exposure_s + PRIOR_EXPOSURE_S)
        decay = rates + 1.0 / horizon_s
        values = np.zeros((NUM_CLASSES, NUM_BUCKETS + 1))
        for bucket in reversed(range(NUM_BUCKETS)):
            stays = np.exp(-decay[:, bucket] * WIDTHS_S[bucket])
            values[:, bucket] = rates[:, bucket] / decay[:, bucket] * (1 - stays) + stays * values[:, bucket + 1]
        values[:, -1] = values[:, -2]  # the last bucket has no end
        return values
