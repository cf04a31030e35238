"""A row of figures.csv: our number, the paper's, and whether they have the same sign."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from bench.statistics import Estimate

Verdict = Literal["yes", "no", "none", "unclear", ""]
# The value at which nothing is gained or lost, by unit.
NEUTRAL = {"%": 0.0, "x": 1.0}
# What is no difference to anyone: half a per cent.
NOTICEABLE = {"%": 0.5, "x": 0.005}


@dataclass(frozen=True)
class FigureRow:
    """``unit``: % is a change against a baseline, x a ratio to it; others are levels, which have no sign to compare.

    ``same_sign`` is empty where the paper gives no number, ``none`` where our whole interval is within half a per cent
    of no difference, and else ``unclear`` where it covers that.
    """

    figure: str
    case: str
    metric: str
    unit: str
    ours: float | None
    low: float | None = None
    high: float | None = None
    paper: float | None = None
    same_sign: Verdict = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As a row of a CSV, figures with five digits."""
        row = asdict(self)
        return row | {name: _rounded(row[name]) for name in ("ours", "low", "high")}


FIELDS = tuple(field.name for field in fields(FigureRow))


def judge(unit: str, ours: Estimate, paper: float | None) -> Verdict:
    """Whether ours lies on the paper's side of "no difference"."""
    neutral = NEUTRAL.get(unit)
    if neutral is None or paper is None or ours.mean is None or paper == neutral:
        return ""
    ends = (ours.mean,) if ours.low is None or ours.high is None else (ours.low, ours.high)
    if all(abs(end - neutral) <= NOTICEABLE[unit] for end in ends):
        return "none"
    if min(ends) <= neutral <= max(ends):
        return "unclear"
    return "yes" if (ours.mean > neutral) == (paper > neutral) else "no"


def figure_row(
    figure: str, case: str, metric: str, unit: str, ours: Estimate, paper: float | None = None, note: str = ""
) -> FigureRow:
    """A row with its verdict."""
    verdict = judge(unit, ours, paper)
    return FigureRow(figure, case, metric, unit, ours.mean, ours.low, ours.high, paper, verdict, note)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
