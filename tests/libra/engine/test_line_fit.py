"""The fitted line behind the price of recomputing."""

import pytest

from libra.engine.line_fit import LineFit


def test_a_line_is_fitted_and_old_points_fade() -> None:
    fit = LineFit(decay=0.5)
    for x in (10.0, 20.0, 30.0):
        fit.add(x, 5.0)
    for x in (10.0, 20.0, 30.0) * 10:
        fit.add(x, 0.1 + 0.01 * x)
    assert fit.at(100.0) == pytest.approx(1.1)
    assert fit.at(0.0) == pytest.approx(0.1)


def test_a_single_point_is_scaled() -> None:
    fit = LineFit()
    fit.add(256.0, 0.5)
    assert fit.at(512.0) == pytest.approx(1.0)
