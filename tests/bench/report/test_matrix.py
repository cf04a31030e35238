"""Which figure of a row is marked."""

import pytest

from bench.report.matrix import Entry, matrix
from bench.statistics import Estimate


def entry(mean: float | None, saturated: bool = False) -> Entry:
    return Estimate(mean), saturated


@pytest.mark.parametrize(
    ("row", "marked"),
    [
        ({"a": entry(3.0), "b": entry(2.0), "c": entry(5.0)}, ["b"]),
        ({"a": entry(3.0), "b": entry(2.0, saturated=True), "c": entry(5.0)}, ["a"]),
        ({"a": entry(3.0), "b": entry(3.0, saturated=True)}, ["a"]),
        ({"a": entry(3.0, saturated=True), "b": entry(2.0, saturated=True)}, ["b"]),
        ({"a": entry(3.0), "b": None}, []),
        ({"a": entry(None), "b": entry(None)}, []),
    ],
)
def test_the_lowest_stable_figure_is_the_best(row: dict[str, Entry], marked: list[str]) -> None:
    columns = list(row)
    (written,) = matrix("", "", columns, [("row", row)]).rows
    assert [name for name, cell in zip(columns, written.cells, strict=True) if cell.is_best] == marked
