"""A simulation of the real engine: the same model, adapters, caches and requests, time by a measured profile."""

from typing import Any

from bench.platform import Platform
from bench.wrapped_platform import WrappedPlatform
from libra.cache.policy import CachePolicy
from libra.engine.build import CacheSizes, build_simulated_engine
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.profile import Profile
from libra.spec import AdapterSpec


class SimulatedTwin(WrappedPlatform):
    """What ``real`` would do if every step and copy took what ``profile`` says."""

    def __init__(self, real: Platform, profile: Profile, config: EngineConfig, device: str) -> None:
        """Raises LibraError when the profile was measured for another model or device than that of ``real``."""
        profile.check_use(real.model, device, 1)
        super().__init__(real)
        self._profile = profile
        self._config = config

    def engine(self, policy: CachePolicy, adapters: list[AdapterSpec], sizes: CacheSizes) -> Engine:
        return build_simulated_engine(policy, self.model, adapters, sizes, self._profile, self._config)

    def profile(self) -> dict[str, Any]:
        return self._profile.as_dict()
