"""Arrival processes: rate, coefficient of variation, and the traps of recorded times."""

import math

import numpy as np
import pytest

from workloads.arrivals import Renewal
from workloads.traps import arrival_warnings, minute_count_warnings


def gaps(burstiness: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.diff(Renewal(burstiness).sample(rng, 10.0, 0.0, 5000.0, 1).times)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_asked_mean_and_cv(burstiness: float) -> None:
    assert gaps(burstiness).mean() == pytest.approx(0.1, rel=0.03)
    assert gaps(burstiness).std() / gaps(burstiness).mean() == pytest.approx(burstiness**-0.5, rel=0.03)


def test_infinite_burstiness_is_a_constant_gap() -> None:
    assert np.allclose(gaps(math.inf), 0.1)


def test_poisson_counts_are_dispersed_like_poisson() -> None:
    dispersions = []
    for seed in range(20):
        times = Renewal().sample(np.random.default_rng(seed), 10.0, 0.0, 1000.0, 1).times
        counts = np.histogram(times, bins=1000, range=(0, 1000))[0]
        dispersions.append(counts.var() / counts.mean())
    assert np.mean(dispersions) == pytest.approx(1.0, abs=0.03)


def test_times_stay_inside_the_asked_window() -> None:
    times = Renewal(0.1).sample(np.random.default_rng(0), 3.0, -50.0, 100.0, 1).times
    assert times[0] >= -50
    assert times[-1] < 100


def test_traps_of_recorded_times() -> None:
    poisson = np.cumsum(np.random.default_rng(0).exponential(0.5, 2000))
    assert arrival_warnings(poisson) == ()
    assert "one row every 1 s" in arrival_warnings(np.arange(600.0))[0]
    even_minutes = np.sort(np.concatenate([60 * m + np.random.default_rng(m).random(30) * 60 for m in range(12)]))
    assert "every minute has the same count (30)" in arrival_warnings(even_minutes)[0]


def test_traps_of_minute_counts() -> None:
    counts = np.random.default_rng(0).poisson(20, (5, 60))
    assert minute_count_warnings(counts) == ()
    assert "divisible by 14" in minute_count_warnings(counts * 14)[0]
    assert "same count" in minute_count_warnings(np.full((5, 60), 3))[0]
