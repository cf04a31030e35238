"""Numbers as people read them."""

import math

import pytest

from bench.conditions import Conditions
from bench.format import MISSING, compact, count, half_width, times, with_interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.1234, "0.123"),
        (0.9996, "1.00"),
        (4.567, "4.57"),
        (9.996, "10.0"),
        (99.96, "100"),
        (12345.6, "12,346"),
        (6_789_000, "6.79M"),
        (2.5e9, "2.50G"),
        (-45.67, "-45.7"),
        (-0.0004, "0.000"),
        (None, MISSING),
        (math.nan, MISSING),
        (math.inf, MISSING),
    ],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert compact(value) == text


def test_interval_has_the_decimals_of_its_value() -> None:
    assert with_interval(412.3, 12.7) == "412 ±13"
    assert with_interval(4.123, 0.456) == "4.12 ±0.46"
    assert with_interval(6_789_000, 50_000) == "6.79M ±0.05M"
    assert half_width(412.3, 0.4) == "±0"


def test_no_interval_where_there_is_none() -> None:
    assert with_interval(412.3, None) == "412"
    assert with_interval(0.0, 0.0) == "0"
    assert with_interval(None, None) == MISSING


def test_counts_and_ratios() -> None:
    assert count(12.0) == "12"
    assert count(1.25) == "1.25"
    assert times(0.4949) == "0.49x"
    assert times(73.3) == "73.3x"
    assert times(None) == MISSING


def test_conditions_are_spelled_out() -> None:
    text = Conditions("t", "m", 1, 0.5, host_gib=None, request_rate=math.inf, load_of_peak=0.8, warmup_s=60).describe()
    assert "cache 0.5 GiB" in text
    assert "host tier unbounded" in text
    assert "all requests at once" in text
    assert "(0.80 of peak)" in text
    assert "first 60 s left out" in text
    assert "working set" not in text
    assert Conditions("t", "m", 1, 0.5).title() == "t on m, 1 adapter"
