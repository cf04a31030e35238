"""Repeated measurements of one thing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

Job = Callable[[bool], None]


@dataclass
class Samples:
    """Seconds of one thing measured again and again. ``size``: bytes of a copy, sequences of a loop."""

    size: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the middle half of the samples, over their median: how much the machine was disturbed."""
        ordered = sorted(self.seconds)
        return (ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]) / (2 * self.median_s)


def job(run: Callable[[], float], samples: Samples) -> Job:
    """``run`` once; its seconds are kept unless told otherwise."""

    def measured(counts: bool) -> None:
        seconds = run()
        if counts:
            samples.seconds.append(seconds)

    return measured
