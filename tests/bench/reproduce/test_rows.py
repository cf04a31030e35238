"""Whether our number has the sign of the paper's."""

import pytest

from bench.reproduce.readme import interval_text, value_text
from bench.reproduce.rows import FigureRow, figure_row, judge
from bench.statistics import Estimate


@pytest.mark.parametrize(
    ("unit", "ours", "paper", "verdict"),
    [
        ("%", Estimate(-20.0, -30.0, -10.0), -45.7, "yes"),
        ("%", Estimate(20.0, 10.0, 30.0), -45.7, "no"),
        ("%", Estimate(-5.0, -12.0, 2.0), -45.7, "unclear"),
        ("%", Estimate(-5.0), -45.7, "yes"),
        ("%", Estimate(0.0), -45.7, "none"),
        ("x", Estimate(1.001, 0.998, 1.004), 1.42, "none"),
        ("x", Estimate(1.004, 0.998, 1.01), 1.42, "unclear"),
        ("x", Estimate(1.02, 1.01, 1.03), 1.42, "yes"),
        ("x", Estimate(0.9, 0.8, 0.99), 1.42, "no"),
        ("x", Estimate(1.0, 0.9, 1.1), 1.42, "unclear"),
        ("x", Estimate(1.5), None, ""),
        ("x", Estimate(None), 1.42, ""),
        ("% of history", Estimate(30.0, 29.0, 31.0), 42.4, ""),
    ],
)
def test_verdict(unit: str, ours: Estimate, paper: float | None, verdict: str) -> None:
    assert judge(unit, ours, paper) == verdict
    assert figure_row("11", "all", "TTFT", unit, ours, paper).same_sign == verdict


def test_figures_are_written_in_the_unit_of_the_row() -> None:
    change = FigureRow("11", "all", "TTFT", "%", -45.66, -50.04, -41.0)
    ratio = FigureRow("15", "all", "TTFT", "x", 1.5149, 1.4, 1.6)
    level = FigureRow("12", "all", "queue", "ms", 4.712)
    assert [value_text(row, row.ours) for row in (change, ratio, level)] == ["-45.7 %", "1.51x", "4.71 ms"]
    assert [interval_text(row) for row in (change, ratio, level)] == ["-50.0 to -41.0", "1.40 to 1.60", "–"]


def test_csv_figures_have_five_digits() -> None:
    assert FigureRow("11", "all", "TTFT", "%", -45.6612345).as_dict()["ours"] == -45.661
