"""What a step costs in a running engine beyond what it costs alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.profiling.fit import FloatArray, Quality, non_negative_least_squares, predict
from libra.engine.step_demand import StepDemand

# The coefficients that a running engine says more of: its steps are too alike, and too much disturbed, for the rest.
LEVELS = ("step_overhead_s", "sequence_s", "several_s", "chunk_s", "adapter_chunk_s")

# They are means, and one pause of the machine would be a part of every step: none counts for longer than so many times
# what it takes alone.
_LONGEST = 4.0


@dataclass(frozen=True)
class RunningFit:
    """What to add to the coefficients named: for what happens ``within`` steps, where it may be negative, and
    ``around`` them, from the end of the one before. ``quality`` is of the steps themselves, with ``within`` added."""

    within: dict[str, float]
    around: dict[str, float]
    quality: Quality

    @property
    def total(self) -> dict[str, float]:
        return {name: self.within[name] + self.around[name] for name in LEVELS}


def fit_running(
    coefficients: Mapping[str, float],
    steps: Sequence[tuple[StepDemand, float]],
    gaps: Sequence[tuple[StepDemand, float]],
) -> RunningFit:
    """From demands with seconds: of ``steps``, and of the ``gaps`` before those that followed upon another.

    Least squares relative to what ``coefficients`` say, not to what was measured: so means come out right, with all
    that disturbs some steps and makes none shorter, and that is what a queue is made of. No sum goes below zero.
    """
    demands = [demand for demand, _ in steps]
    alone, expected = np.array([coefficients[name] for name in LEVELS]), predict(coefficients, demands)
    seconds = np.minimum([measured for _, measured in steps], _LONGEST * expected)
    levels = _levels(demands)
    target = seconds - (expected - levels @ alone)
    costs = non_negative_least_squares(levels / expected[:, None], target / expected)
    # What no step had, none can tell.
    costs = np.where(levels.any(axis=0), costs, alone)
    between = np.array([measured for _, measured in gaps])
    around = non_negative_least_squares(_levels([demand for demand, _ in gaps]), between)
    return RunningFit(
        dict(zip(LEVELS, (costs - alone).tolist(), strict=True)),
        dict(zip(LEVELS, around.tolist(), strict=True)),
        Quality.of(seconds, expected + levels @ (costs - alone)),
    )


def _levels(demands: Sequence[StepDemand]) -> FloatArray:
    """How many of each of LEVELS."""
    return np.array([(1.0, one.sequences, one.several, one.chunks, one.adapter_chunks) for one in demands])
