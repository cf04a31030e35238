import pytest

from bench.soak.memory import curve, measure_drift


def test_a_steady_leak_is_found_whatever_the_peaks() -> None:
    times = [float(second) for second in range(100)]
    rss = [500.0 + 0.5 * second for second in times]
    rss[10], rss[90] = 900.0, 100.0
    drift = measure_drift(times, rss)
    assert drift is not None
    assert abs(drift.slope_mib_per_h - 1800.0) < 1.0
    assert abs(drift.growth - 49.5 / 500.0) < 1e-3
    assert (drift.min_mib, drift.max_mib) == (100.0, 900.0)


def test_what_goes_up_and_down_is_flat() -> None:
    drift = measure_drift(list(range(100)), [500.0 + second % 7 for second in range(100)])
    assert drift is not None
    assert abs(drift.growth) < 1e-3


def test_too_few_samples_say_nothing() -> None:
    assert measure_drift([0.0, 1.0], [1.0, 2.0]) is None
    assert measure_drift([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_a_late_step_counts_although_it_hardly_moves_the_slope() -> None:
    drift = measure_drift(list(range(100)), [500.0] * 75 + [520.0] * 25)
    assert drift is not None
    assert drift.growth < 0.01
    assert drift.worst == drift.ends_growth == pytest.approx(0.04)


def test_memory_that_shrinks_is_no_growth() -> None:
    drift = measure_drift(list(range(100)), [500.0 - 0.1 * second for second in range(100)])
    assert drift is not None
    assert drift.worst < 0


def test_the_curve_goes_from_the_least_to_the_greatest() -> None:
    assert curve([0.0, 7.0, 7.0, 0.0]) == "▁██▁"
    assert curve([3.0, 3.0]) == "▁▁"
    assert curve([]) == ""
    assert curve([float(value) for value in range(160)], width=8) == "▂▃▄▄▅▆▇█"
