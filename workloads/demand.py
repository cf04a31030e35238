"""What a workload is asked for: how many adapters, how fast, how long. Every default of the command line is here."""

import math
from dataclasses import dataclass

from libra.errors import LibraError

ARRIVAL_FORMS = (
    "poisson, gamma:CV, onoff:ON_S,OFF_S[,RATIO], ramp:FROM,TO, drift:PERIOD_S, azure-functions:FILE@MINUTE "
    "or servegen:DIR@SECOND."
)

SCALE_ADAPTERS = 1000
# Beyond these a trace fits no machine: whoever asks for more has mistyped.
MAX_ADAPTERS = 1_000_000
MAX_REQUESTS = 50_000_000


def check_num_adapters(number: int) -> None:
    """Raises LibraError where no workload has so many adapters."""
    if not 1 <= number <= MAX_ADAPTERS:
        least_or_most = "needs at least 1 adapter" if number < 1 else f"has at most {MAX_ADAPTERS:,}"
        raise LibraError(f"--num-loras is {number}; a workload {least_or_most}")


@dataclass(frozen=True)
class Demand:
    """Options that every generator takes, by the names of the command line.

    ``request_rate`` is requests per second, expected over the run; ``popularity`` None means zipf:1.0 unless the
    arrivals bring their own adapters or the workload has its own; ``arrivals`` is one of ARRIVAL_FORMS, see
    workloads.processes; ``burstiness`` is the Gamma shape of the gaps, as in ``vllm bench serve``.
    Raises LibraError for a value out of range.
    """

    num_adapters: int = 50
    request_rate: float = 5.0
    duration_s: float = 1800.0
    seed: int = 0
    popularity: str | None = None
    arrivals: str = "poisson"
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        check_num_adapters(self.num_adapters)
        for flag, value in (("--request-rate", self.request_rate), ("--duration", self.duration_s)):
            if not (value > 0 and math.isfinite(value)):
                raise LibraError(f"{flag} is {value}; it must be positive and finite")
        if self.request_rate * self.duration_s > MAX_REQUESTS:
            raise LibraError(
                f"--request-rate {self.request_rate:g} for --duration {self.duration_s:g} is "
                f"{self.request_rate * self.duration_s:.3g} requests; a workload has at most {MAX_REQUESTS:,}"
            )
        if self.seed < 0:
            raise LibraError(f"--seed is {self.seed}; it must be 0 or more")
