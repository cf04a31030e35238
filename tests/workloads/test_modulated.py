"""Bursts and ramps: counts against the expectations and variances of the processes, worked from their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.errors import LibraError
from workloads.modulated import OnOff, Ramp

SEEDS = range(20)
SIGMAS = 4  # a band of 4 standard errors fails one time in 16,000


def sample(process: OnOff | Ramp, seed: int, rate: float, start_s: float, end_s: float) -> np.ndarray:
    return process.sample(np.random.default_rng(seed), rate, start_s, end_s, 1).times


def count_variance(process: OnOff, rate: float, seconds: float) -> float:
    """Of the arrivals in a window of a Markov-modulated Poisson process of two states: the mean plus the variance of
    the integrated rate, whose autocovariance decays at the sum of the switching rates."""
    share, decay = process.share_on, 1 / process.on_s + 1 / process.off_s
    on = rate / (share + (1 - share) / process.ratio)
    integral = 2 * (seconds / decay - (1 - math.exp(-decay * seconds)) / decay**2)
    return rate * seconds + (on - on / process.ratio) ** 2 * share * (1 - share) * integral


@pytest.mark.parametrize("process", [OnOff(5, 15), OnOff(10, 50, 20.0), OnOff(2, 2, 3.0)])
def test_bursts_keep_the_mean_rate(process: OnOff) -> None:
    rate, end_s = 6.0, 3000.0
    counts = [len(sample(process, seed, rate, -100.0, end_s)) for seed in SEEDS]
    error = math.sqrt(count_variance(process, rate, end_s + 100) / len(SEEDS))
    assert np.mean(counts) == pytest.approx(rate * (end_s + 100), abs=SIGMAS * error)


@pytest.mark.parametrize("process", [OnOff(5, 15), OnOff(10, 50, 20.0), OnOff(2, 2, 3.0), OnOff(10, 10, 1.0)])
@pytest.mark.parametrize("window_s", [1.0, 10.0, 60.0])
def test_bursts_have_the_dispersion_of_a_modulated_poisson_process(process: OnOff, window_s: float) -> None:
    rate, end_s = 6.0, 6000.0
    bins = int(end_s / window_s)
    counts = [np.histogram(sample(process, seed, rate, 0.0, end_s), bins, (0, end_s))[0] for seed in SEEDS]
    second_moments = [np.mean((count - rate * window_s) ** 2.0) for count in counts]
    error = np.std(second_moments, ddof=1) / math.sqrt(len(SEEDS))
    expected = count_variance(process, rate, window_s)
    assert error < expected / 6  # or the band below says nothing
    assert np.mean(second_moments) == pytest.approx(expected, abs=SIGMAS * error)


def test_nothing_arrives_while_off() -> None:
    # Off for 1,000 s on average and on for 10 s: nearly all gaps are of the rate while on, 101 times the mean rate.
    times = sample(OnOff(10, 1000), 3, 1.0, 0.0, 100_000.0)
    gaps = np.diff(times)
    pauses = gaps[gaps > 1.0]
    # A pause per cycle of 1,010 s.
    assert len(pauses) == pytest.approx(100_000 / 1010, abs=SIGMAS * math.sqrt(100_000 / 1010))
    assert np.mean(gaps[gaps <= 1.0]) == pytest.approx(1 / 101, rel=0.02)


@pytest.mark.parametrize("ramp", [Ramp(1, 3), Ramp(3, 1), Ramp(0, 1), Ramp(1, 0), Ramp(2, 2)])
def test_ramps_rise_linearly_and_keep_the_mean_rate(ramp: Ramp) -> None:
    rate, end_s, parts = 8.0, 1000.0, 10
    counts = sum(np.histogram(sample(ramp, seed, rate, 0.0, end_s), parts, (0, end_s))[0] for seed in SEEDS)
    middles = (np.arange(parts) + 0.5) / parts
    shares = (ramp.first + (ramp.last - ramp.first) * middles) / (ramp.first + ramp.last) * 2 / parts
    expected = shares * rate * end_s * len(SEEDS)
    assert np.abs(counts - expected).max() < SIGMAS * math.sqrt(expected.max())
    assert np.all(np.abs(counts - expected) < SIGMAS * np.sqrt(expected) + 1)
    assert counts.sum() == pytest.approx(expected.sum(), abs=SIGMAS * math.sqrt(expected.sum()))


def test_before_time_zero_a_ramp_has_its_first_rate() -> None:
    counts = sum(np.histogram(sample(Ramp(1, 3), seed, 8.0, -500.0, 1000.0), 5, (-500, 0))[0] for seed in SEEDS)
    expected = 4.0 * 100 * len(SEEDS)
    assert np.abs(counts - expected).max() < SIGMAS * math.sqrt(expected)


@pytest.mark.parametrize("ramp", [(1, 3), (3, 1), (0, 1), (1, 0)])
def test_what_comes_later_than_the_arrivals_has_the_line_and_the_rate(ramp: tuple[float, float]) -> None:
    rate, end_s, lag_s, parts = 8.0, 1000.0, 100.0, 10
    process = Ramp(*ramp, lag_s=lag_s)
    times = [sample(process, seed, rate, -500.0, end_s) + lag_s for seed in SEEDS]
    counts = sum(np.histogram(own, parts, (0, end_s))[0] for own in times)
    middles = (np.arange(parts) + 0.5) / parts
    expected = 2 * rate * (ramp[0] + (ramp[1] - ramp[0]) * middles) / sum(ramp) * end_s / parts * len(SEEDS)
    assert np.all(np.abs(counts - expected) < SIGMAS * np.sqrt(expected) + 1)
    assert all(own.max() < end_s + lag_s for own in times)


def test_burstiness_applies_inside_bursts_and_ramps() -> None:
    # A ramp that does not rise is the renewal process itself: shape 0.25 is a gap CV of 2, inf a constant gap.
    for burstiness, cv in ((0.25, 2.0), (math.inf, 0.0)):
        gaps = np.diff(sample(Ramp(1, 1, burstiness), 0, 10.0, 0.0, 5000.0))
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03, abs=1e-6)
    steady = [np.diff(sample(OnOff(50, 50, 1.0, shape), 0, 10.0, 0.0, 5000.0)).std() for shape in (0.25, 4.0)]
    assert steady[0] > 3 * steady[1]


@given(
    process=st.one_of(
        st.builds(OnOff, st.floats(0.01, 1e4), st.floats(0.01, 1e4), st.sampled_from([1.0, 7.0, math.inf])),
        st.builds(Ramp, st.floats(0, 10), st.floats(0.01, 10), st.sampled_from([0.5, 1.0, math.inf])),
    ),
    seed=st.integers(0, 2**32),
    start_s=st.floats(-100, 0),
    end_s=st.floats(1, 100),
)
@settings(max_examples=50)
def test_times_ascend_inside_the_window(process: OnOff | Ramp, seed: int, start_s: float, end_s: float) -> None:
    times = sample(process, seed, 5.0, start_s, end_s)
    assert np.all(np.diff(times) >= 0)
    assert np.all((times >= start_s) & (times < end_s))
    assert np.array_equal(times, sample(process, seed, 5.0, start_s, end_s))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OnOff(0.0, 5), "0.01 s or longer"),
        (lambda: OnOff(5, math.inf), "0.01 s or longer"),
        (lambda: OnOff(5, 5, 0.5), "RATIO is 0.5"),
        (lambda: OnOff(5, 5, math.nan), "RATIO is nan"),
        (lambda: OnOff(5, 5, burstiness=0.0), "--burstiness is 0.0"),
        (lambda: Ramp(0, 0), "not both 0"),
        (lambda: Ramp(-1, 2), "0 or more"),
    ],
)
def test_bad_values_are_refused(build: object, message: str) -> None:
    with pytest.raises(LibraError, match=message):
        build()  # type: ignore[operator]
