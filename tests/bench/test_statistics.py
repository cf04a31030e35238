"""Percentiles, intervals and fairness against numbers worked by hand, and scipy where it is installed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.statistics import Estimate, distribution, estimate, jain_index, ratio, student_t_quantile


@pytest.mark.parametrize(
    ("degrees", "printed_table"), [(1, 12.706), (4, 2.776), (9, 2.262), (11, 2.201), (20, 2.086), (30, 2.042)]
)
def test_t_quantile_is_that_of_printed_tables(degrees: int, printed_table: float) -> None:
    assert student_t_quantile(degrees) == pytest.approx(printed_table, abs=6e-4)


def test_t_quantile_matches_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is an oracle only")
    for degrees in range(1, 200):
        assert student_t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)


def test_interval_worked_by_hand() -> None:
    # Mean 4, sample variance 4, standard error 2/sqrt(3), t(2) = 4.30265.
    figure = estimate([2.0, 4.0, 6.0])
    assert figure.mean == 4.0
    assert figure.half_width == pytest.approx(4.30265 * 2 / math.sqrt(3), rel=1e-6)


def test_missing_samples_are_left_out() -> None:
    assert estimate([None, 3.0, None]) == Estimate(3.0, None, None)
    assert estimate([None]) == Estimate(None)
    assert estimate([]) == Estimate(None)


def test_one_sample_has_no_interval() -> None:
    assert estimate([7.0]).half_width is None
    with pytest.raises(ValueError, match="two samples"):
        student_t_quantile(0)


def test_distribution_worked_by_hand() -> None:
    figures = distribution("ttft_ms", np.array([300.0, 100.0, 200.0]))
    assert figures["mean_ttft_ms"] == 200
    assert figures["median_ttft_ms"] == figures["p50_ttft_ms"] == 200
    assert figures["std_ttft_ms"] == pytest.approx(81.6496580928)
    assert figures["p90_ttft_ms"] == pytest.approx(280)
    assert figures["p95_ttft_ms"] == pytest.approx(290)
    assert figures["p99_ttft_ms"] == pytest.approx(298)


def test_distribution_of_nothing_is_all_none() -> None:
    assert set(distribution("x", np.empty(0)).values()) == {None}


def test_jain_index_at_its_ends() -> None:
    assert jain_index([5.0, 5.0, 5.0]) == pytest.approx(1)
    assert jain_index([9.0, 0.0, 0.0]) == pytest.approx(1 / 3)
    assert jain_index([100.0, 300.0, 200.0]) == pytest.approx(6 / 7)
    assert jain_index([0.0, 0.0]) == 1.0
    assert jain_index([]) is None


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30))
def test_jain_index_is_between_one_over_n_and_one(shares: list[float]) -> None:
    index = jain_index(shares)
    assert index is not None
    assert 1 / len(shares) - 1e-9 <= index <= 1 + 1e-9


def test_ratio_of_nothing_is_none() -> None:
    assert ratio(1, 0) is None
    assert ratio(1, 4) == 0.25
