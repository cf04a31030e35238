"""All figures, in the order of the README."""

from collections.abc import Sequence

from bench.reproduce.ablations import Ablations, Branches, Rankings
from bench.reproduce.controls import Controls
from bench.reproduce.crowds import Crowds, OracleShare
from bench.reproduce.figure import Figure
from bench.reproduce.gain import Gain
from bench.reproduce.memory import Breakdown, HbmTimeline, HbmUse
from bench.reproduce.overheads import Overheads
from bench.reproduce.systems import Latency, PeakLoad, Tails
from libra.errors import unknown

FIGURES: tuple[Figure, ...] = (
    Latency(),
    PeakLoad(),
    Tails(),
    Breakdown(),
    HbmUse(),
    HbmTimeline(),
    Ablations(),
    Branches(),
    Rankings(),
    Crowds(),
    OracleShare(),
    Overheads(),
    Controls(),
)
# Those that README.md can be made of.
ALL_FIGURES: tuple[Figure, ...] = (*FIGURES, Gain())


def choose_figures(numbers: Sequence[str]) -> list[Figure]:
    """The paper's figures of these numbers, all without any. Raises LibraError on an unknown one."""
    known = {figure.number: figure for figure in FIGURES}
    for number in numbers:
        if number not in known:
            raise unknown("--figure", number, known)
    return [figure for figure in FIGURES if not numbers or figure.number in numbers]
