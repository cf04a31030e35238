"""The scaling benchmark's rows and slopes, on tiny sizes."""

from dataclasses import replace
from pathlib import Path

import pytest
import typer

from bench.micro.scaling import Cost, Size, as_table, main, measure_size, plan, report, slope

COST = Cost("requests", "lru", 50, 100, 10, 1.0, 10.0, 1.0)


def test_each_axis_varies_alone() -> None:
    sizes = plan("lru", [20, 200], [10, 30])
    assert sizes == [
        Size("adapters", "lru", 20, 10),
        Size("adapters", "lru", 200, 10),
        Size("requests", "lru", 50, 10),
        Size("requests", "lru", 50, 30),
    ]


def test_a_row_is_about_the_requests_that_were_asked_for() -> None:
    cost = measure_size(Size("requests", "lru", 3, 40))
    assert (cost.num_adapters, cost.num_requests) == (3, 40)
    assert cost.num_steps > 40
    assert cost.us_per_request == pytest.approx(1e6 * cost.cpu_s / 40, rel=0.1)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_slope_is_the_exponent_of_the_cost_per_request(exponent: float) -> None:
    costs = [replace(COST, num_requests=count, us_per_request=7.0 * count**exponent) for count in (10, 100, 1000)]
    assert slope(costs, "requests") == pytest.approx(exponent, abs=1e-3)
    assert slope(costs, "adapters") is None


def test_report_and_table_hold_every_row() -> None:
    costs = [COST, replace(COST, num_requests=200)]
    assert [row["num_requests"] for row in report(costs)["rows"]] == [100, 200]
    assert as_table(costs).row_count == 2


def test_an_unknown_policy_or_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="unknown policy"):
        main(policy="nobody", out=tmp_path)
    with pytest.raises(typer.BadParameter, match="list of numbers"):
        main(adapters="20,x", out=tmp_path)
    assert list(tmp_path.iterdir()) == []
