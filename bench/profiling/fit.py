"""Fits the coefficients of a profile to measured steps and copies, none below zero."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from libra.engine.profile import BESIDE_ROOFLINE
from libra.engine.step_demand import StepDemand
from libra.errors import LibraError

FloatArray = npt.NDArray[np.float64]

# A rate that no measured point was bound by, in flops or bytes per second.
UNBOUND = 1e18
COEFFICIENTS = ("step_overhead_s", "flops_per_s", "memory_bytes_per_s", "adapter_overhead_s", *BESIDE_ROOFLINE)
RATES = ("flops_per_s", "memory_bytes_per_s")


@dataclass(frozen=True)
class Quality:
    """How well fitted seconds meet the measured ones. ``r_squared`` None where all measured ones are equal; errors are
    relative to the measured, signs dropped."""

    num_points: int
    r_squared: float | None
    mean_error: float
    max_error: float

    @staticmethod
    def of(measured: FloatArray, fitted: FloatArray) -> "Quality":
        around = float(((measured - measured.mean()) ** 2).sum())
        errors = np.abs(fitted / measured - 1.0)
        r_squared = 1.0 - float(((measured - fitted) ** 2).sum()) / around if around > 0 else None
        return Quality(len(measured), r_squared, float(errors.mean()), float(errors.max()))


@dataclass(frozen=True)
class StepFit:
    """``coefficients`` by their names in Profile, and the ``seconds`` that they give the measured points."""

    coefficients: dict[str, float]
    seconds: FloatArray


@dataclass(frozen=True)
class LineFit:
    """A copy of n bytes takes ``latency_s + n / bytes_per_s``."""

    latency_s: float
    bytes_per_s: float
    quality: Quality


def non_negative_least_squares(columns: FloatArray, target: FloatArray) -> FloatArray:
    """The x >= 0 with the least ||columns x - target||, columns [points, unknowns].

    Lawson and Hanson, Solving Least Squares Problems, chapter 23: unknowns leave zero one at a time, the one that
    promises most first; what a plain solution over those that have left would make negative goes back.
    """
    # To lengths of one: flops and bytes would drown seconds.
    scale = np.linalg.norm(columns, axis=0)
    unit = columns / np.where(scale > 0, scale, 1.0)
    found, is_free = np.zeros(columns.shape[1]), np.zeros(columns.shape[1], dtype=bool)
    tolerance = 1e-10 * float(np.linalg.norm(target))
    for _ in range(3 * len(found)):
        promise = np.where(is_free | (scale == 0), 0.0, unit.T @ (target - unit @ found))
        best = int(promise.argmax())
        if promise[best] <= tolerance:
            break
        is_free[best] = True
        while True:
            plain = np.zeros(len(found))
            plain[is_free] = np.linalg.lstsq(unit[:, is_free], target, rcond=None)[0]
            below = is_free & (plain <= 0)
            if not below.any():
                break
            # As far towards the plain solution as all of them stay at zero or above; those at zero go back.
            ratios = np.where(below, found / np.where(below & (found > plain), found - plain, 1.0), np.inf)
            found = np.where(is_free, found + ratios.min() * (plain - found), 0.0)
            is_free &= ratios > ratios.min()
            found[~is_free] = 0.0
        found = plain
    return found / np.where(scale > 0, scale, 1.0)


def fit_steps(demands: Sequence[StepDemand], seconds: Sequence[float]) -> StepFit:
    """The coefficients with the least relative squared error, so that short steps count like long ones.

    A step is bound by compute or by memory. Whatever the two rates, those bound by compute have the higher flops per
    byte: sorted by that, one cut parts them, every cut is tried, and within it the step is linear in the unknowns.
    Raises LibraError for fewer points than unknowns.
    """
    if len(demands) < len(COEFFICIENTS):
        raise LibraError(
            f"{len(demands)} steps were measured, and {len(COEFFICIENTS)} coefficients need at least as many; use a "
            "model of longer contexts"
        )
    work = np.array(demands, dtype=float)
    measured = np.asarray(seconds, dtype=float)
    flops, moved = work[:, 0], work[:, 1]
    order = np.argsort(flops / moved, kind="stable")
    best: tuple[float, FloatArray, FloatArray] | None = None
    for cut in range(len(order) + 1):
        by_memory = np.zeros(len(order), dtype=bool)
        by_memory[order[:cut]] = True
        costs = non_negative_least_squares(_columns(work, by_memory) / measured[:, None], np.ones(len(measured)))
        # What the simulator will say: the larger of the two, whichever side of the cut the point was on.
        truly_by_memory = moved * costs[2] > flops * costs[1]
        fitted = _columns(work, truly_by_memory) @ costs
        error = float(((fitted / measured - 1.0) ** 2).sum())
        if best is None or error < best[0]:
            best = (error, costs, fitted)
    assert best is not None
    coefficients: dict[str, float] = dict(zip(COEFFICIENTS, best[1].tolist(), strict=True))
    for name in RATES:
        coefficients[name] = 1.0 / coefficients[name] if coefficients[name] > 0 else UNBOUND
    return StepFit(coefficients, best[2])


def predict(coefficients: Mapping[str, float], demands: Sequence[StepDemand]) -> FloatArray:
    """What the simulator says of steps with these ``demands``."""
    work = np.array(demands, dtype=float)
    costs = np.array([1.0 / coefficients[name] if name in RATES else coefficients[name] for name in COEFFICIENTS])
    by_memory = work[:, 1] * costs[2] > work[:, 0] * costs[1]
    return np.asarray(_columns(work, by_memory) @ costs)


def _columns(work: FloatArray, by_memory: npt.NDArray[np.bool_]) -> FloatArray:
    """Seconds per unit of each cost, in the order of COEFFICIENTS; a rate's cost is its inverse."""
    flops, moved, adapter_flops, adapter_bytes, sequences, context, *beyond = work.T
    return np.stack(
        [
            np.ones(len(work)),
            np.where(by_memory, 0.0, flops) + adapter_flops,
            np.where(by_memory, moved, 0.0) + adapter_bytes,
            (adapter_bytes > 0).astype(float),
            sequences,
            context,
            *beyond,
        ],
        axis=1,
    )


def fit_line(sizes: Sequence[int], seconds: Sequence[float]) -> LineFit:
    """Latency and bandwidth of copies of so many bytes, by relative least squares. With one size there is no latency.
    Raises ValueError without any copy."""
    size, measured = np.asarray(sizes, dtype=float), np.asarray(seconds, dtype=float)
    if not size.size:
        raise ValueError("no copies to fit")
    constant = np.full(len(size), float(len(set(sizes)) > 1))
    columns = np.stack([constant, size], axis=1)
    latency_s, per_byte = non_negative_least_squares(columns / measured[:, None], np.ones(len(size))).tolist()
    fitted = columns @ np.array([latency_s, per_byte])
    return LineFit(latency_s, 1.0 / per_byte if per_byte > 0 else UNBOUND, Quality.of(measured, fitted))
