"""Arrivals whose rate changes with time: bursts and ramps.

Both stretch a renewal process: gaps of mean 1 are drawn in units of expected arrivals, and the inverse of the
expected count up to time t turns those units into seconds. With burstiness 1 that is a Poisson process of changing
rate, exactly.
"""

import math
from dataclasses import dataclass

import numpy as np

from libra.errors import LibraError
from workloads.arrivals import Arrivals, FloatArray, check_burstiness, renewal_times, shown_burstiness

MIN_PERIOD_S = 0.01


@dataclass(frozen=True)
class OnOff:
    """Bursts: the process is on for an exponential time of mean ``on_s``, then off for one of mean ``off_s``, and so
    on, from a random place in the cycle. ``ratio`` is the rate while on over the rate while off; inf means that
    nothing arrives while off. With burstiness 1 it is a Markov-modulated Poisson process of two states.

    The rate asked for is the mean over both states; a run of few cycles can be far from it.
    """

    on_s: float
    off_s: float
    ratio: float = math.inf
    burstiness: float = 1.0
    source: str = "generated"

    def __post_init__(self) -> None:
        check_burstiness(self.burstiness)
        if not (min(self.on_s, self.off_s) >= MIN_PERIOD_S and max(self.on_s, self.off_s) < math.inf):
            raise LibraError(
                f"--arrivals onoff:{self.on_s:g},{self.off_s:g}: bursts and pauses are {MIN_PERIOD_S} s or longer"
            )
        if not self.ratio >= 1:
            raise LibraError(
                f"--arrivals onoff: RATIO is {self.ratio:g}; the rate in a burst is the higher one, so 1 or more"
            )

    def sample(
        self, rng: np.random.Generator, rate: float, start_s: float, end_s: float, num_adapters: int
    ) -> Arrivals:
        edges, on = self._periods(rng, start_s, end_s)
        expected = np.concatenate(([0.0], np.cumsum(rate * np.where(on, *self._relative_rates) * np.diff(edges))))
        units = renewal_times(rng, self.burstiness, 1.0, 0.0, float(expected[-1]))
        return Arrivals(
            np.interp(units, expected, edges),
            parameters={
                "on_s": self.on_s,
                "off_s": self.off_s,
                "on_off_ratio": "inf" if math.isinf(self.ratio) else self.ratio,
                "burstiness": shown_burstiness(self.burstiness),
            },
        )

    @property
    def share_on(self) -> float:
        """The share of time spent on."""
        return self.on_s / (self.on_s + self.off_s)

    @property
    def _relative_rates(self) -> tuple[float, float]:
        """The rates while on and while off, over the mean rate."""
        on = 1 / (self.share_on + (1 - self.share_on) / self.ratio)
        return on, on / self.ratio

    def _periods(self, rng: np.random.Generator, start_s: float, end_s: float) -> tuple[FloatArray, FloatArray]:
        """The edges of the periods that cover [start_s, end_s], and for each period whether it is on."""
        first_on = rng.random() < self.share_on
        means = (self.on_s, self.off_s) if first_on else (self.off_s, self.on_s)
        lengths, covered = np.empty(0), 0.0
        while covered < end_s - start_s:
            cycles = int((end_s - start_s) / (self.on_s + self.off_s)) + 16
            lengths = np.append(lengths, rng.exponential(np.tile(means, cycles)))
            covered = float(lengths.sum())
        edges = np.concatenate(([start_s], start_s + np.cumsum(lengths)))
        last = int(np.searchsorted(edges, end_s))
        edges = np.append(edges[:last], end_s)
        return edges, (np.arange(last) % 2 == 0) == first_on


@dataclass(frozen=True)
class Ramp:
    """A rate that changes linearly over the run, from ``first`` to ``last``. Only their ratio matters: the rate asked
    for is the mean over [0, end). Before time 0 the rate is that of time 0.

    ``lag_s``: what counts comes so long after the arrival that it belongs to, on average. The whole ramp then begins
    so much earlier, and what counts has the line and the mean.
    """

    first: float
    last: float
    burstiness: float = 1.0
    lag_s: float = 0.0
    source: str = "generated"

    def __post_init__(self) -> None:
        check_burstiness(self.burstiness)
        if not (min(self.first, self.last) >= 0 and 0 < self.first + self.last < math.inf):
            raise LibraError(f"--arrivals ramp:{self.first:g},{self.last:g}: rates are 0 or more, and not both 0")

    def sample(
        self, rng: np.random.Generator, rate: float, start_s: float, end_s: float, num_adapters: int
    ) -> Arrivals:
        scale = 2 * rate / (self.first + self.last)
        first, slope = scale * self.first, scale * (self.last - self.first) / end_s
        # All times below are those of what counts: lag_s later.
        stop = end_s + self.lag_s
        if slope < 0:
            stop = min(stop, -first / slope)  # where the line meets 0
        start = start_s + self.lag_s
        counted = (first * start + slope * max(start, 0.0) ** 2 / 2, first * stop + slope * stop**2 / 2)
        units = renewal_times(rng, self.burstiness, 1.0, *counted)
        before, after = units[units < 0], units[units >= 0]
        # The expected count first * t + slope * t**2 / 2 solved for t, in the form that does not cancel.
        root = np.sqrt(np.maximum(first**2 + 2 * slope * after, 0))
        times = np.concatenate((before / first if first else before, 2 * after / (first + root))) - self.lag_s
        return Arrivals(
            times[(times >= start_s) & (times < end_s)],
            parameters={
                "ramp_from": first,
                "ramp_to": scale * self.last,
                "burstiness": shown_burstiness(self.burstiness),
            },
        )
