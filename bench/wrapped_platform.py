"""A platform made of another one: the same model, requests, adapters and default cache, with engines of its own."""

from bench.platform import Platform
from libra.spec import AdapterSpec
from workloads.trace import Trace


class WrappedPlatform(Platform):
    """All of ``real`` but its engines and its profile."""

    def __init__(self, real: Platform) -> None:
        self.defaults = real.defaults
        self.model = real.model
        self._real = real

    def fit(self, trace: Trace) -> Trace:
        return self._real.fit(trace)

    def adapters(self, trace: Trace, seed: int) -> list[AdapterSpec]:
        return self._real.adapters(trace, seed)

    def default_hbm_bytes(self) -> float:
        return self._real.default_hbm_bytes()
