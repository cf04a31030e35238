"""What a table must state about a run for its figures to mean anything."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """The conditions all policies of a table shared.

    ``cache_gib`` None is a server whose memory nobody told. ``working_set_gib`` is the mean over time of the KV of live
    sessions plus all adapters. ``host_gib`` None is an unbounded host tier, ``request_rate`` None a trace's own
    arrivals, ``load_of_peak`` the rate over the peak rate where that is known. Seconds and GiB throughout.
    """

    workload: str
    model: str
    num_adapters: int
    cache_gib: float | None
    working_set_gib: float | None = None
    host_gib: float | None = 256.0
    request_rate: float | None = None
    load_of_peak: float | None = None
    duration_s: float | None = None
    warmup_s: float = 0.0

    @property
    def cache_fraction(self) -> float | None:
        """HBM cache over working set; None when the working set is unknown or empty."""
        return self.cache_gib / self.working_set_gib if self.working_set_gib and self.cache_gib is not None else None

    def title(self) -> str:
        """What was run: ``chatbot on llama3-8b, 50 adapters``."""
        return f"{self.workload} on {self.model}, {self.num_adapters:,} adapter{'' if self.num_adapters == 1 else 's'}"

    def describe(self) -> str:
        """Under which load and with how much memory, as one line for a caption."""
        return " · ".join([self._describe_load(), *self._describe_memory()])

    def _describe_load(self) -> str:
        if self.request_rate == math.inf or self.duration_s == 0:  # files know no infinity
            load = "all requests at once"
        elif self.request_rate is None:
            load = "arrivals of the trace"
        else:
            load = f"{self.request_rate:g} req/s"
        if self.duration_s:
            load += f" for {self.duration_s:,.0f} s"
        if self.load_of_peak is not None:
            load += f" ({self.load_of_peak:.2f} of peak)"
        return f"{load}, first {self.warmup_s:g} s left out" if self.warmup_s else load

    def _describe_memory(self) -> list[str]:
        if self.cache_gib is None:
            return []
        cache = f"cache {_gib(self.cache_gib)}"
        fraction = self.cache_fraction
        if self.working_set_gib is not None and fraction is not None:
            cache += f" = {fraction:.2f} of the working set ({_gib(self.working_set_gib)})"
        return [cache, "host tier unbounded" if self.host_gib is None else f"host tier {_gib(self.host_gib)}"]


def _gib(size: float) -> str:
    return f"{size:.3g} GiB" if size < 100 else f"{size:,.0f} GiB"
