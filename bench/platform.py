"""Where a benchmark runs: a simulated device, this machine's CPU or its GPU, behind one interface."""

import os
from abc import ABC, abstractmethod
from typing import Any

from bench.real_device import REAL_DEVICES
from bench.settings import SIMULATED, BenchSettings, DeviceDefaults
from libra.cache.policy import CachePolicy
from libra.engine.build import CacheSizes, build_simulated_engine, default_hbm_bytes
from libra.engine.engine import Engine
from libra.engine.profile import datasheet_profile, load_profile
from libra.errors import LibraError, unknown
from libra.spec import DEVICES, MODELS, AdapterSpec, ModelSpec
from workloads.adapters import assign_ranks
from workloads.trace import Trace

OPENMP_SPIN_COUNT = "20000"


class Platform(ABC):
    """Makes engines. ``defaults`` fill in options that were not given; ``model`` is the base model's shapes."""

    defaults: DeviceDefaults
    model: ModelSpec

    @abstractmethod
    def fit(self, trace: Trace) -> Trace:
        """The trace as this platform can run it: adapter names mapped, lengths capped to the model's."""

    @abstractmethod
    def adapters(self, trace: Trace, seed: int) -> list[AdapterSpec]:
        """The adapters ``trace`` asks for, in its order. Raises LibraError when there are too few."""

    @abstractmethod
    def default_hbm_bytes(self) -> float:
        """HBM for blocks where no cache size is given."""

    @abstractmethod
    def engine(self, policy: CachePolicy, adapters: list[AdapterSpec], sizes: CacheSizes) -> Engine:
        """A fresh engine with an empty cache. Close its link after use."""

    @abstractmethod
    def profile(self) -> dict[str, Any] | None:
        """The simulator's coefficients for meta.json; None where time is real."""


class SimulatedPlatform(Platform):
    """A preset device in virtual time, on a datasheet profile or one from a file."""

    defaults = SIMULATED

    def __init__(self, settings: BenchSettings, device_name: str) -> None:
        self._device = DEVICES[device_name]
        self.model = MODELS[settings.model or self.defaults.model]
        self._tensor_parallel = settings.tensor_parallel_size or self.model.default_tensor_parallel
        if settings.profile is not None:
            self._profile = load_profile(settings.profile)
            self._profile.check_use(self.model, device_name, self._tensor_parallel)
        else:
            self._profile = datasheet_profile(self._device, self.model, self._tensor_parallel)
        if settings.link_gbps is not None:
            self._profile = self._profile.with_link(settings.link_gbps * 1e9)
        self._config = settings.engine
        self._ranks = settings.ranks or self.defaults.ranks

    def fit(self, trace: Trace) -> Trace:
        return trace

    def adapters(self, trace: Trace, seed: int) -> list[AdapterSpec]:
        drawn = assign_ranks(list(trace.header.adapters), self._ranks, seed)
        return [AdapterSpec(name, rank or drawn[name]) for name, rank in trace.header.adapters.items()]

    def default_hbm_bytes(self) -> float:
        return default_hbm_bytes(self._device, self.model, self._tensor_parallel)

    def engine(self, policy: CachePolicy, adapters: list[AdapterSpec], sizes: CacheSizes) -> Engine:
        return build_simulated_engine(policy, self.model, adapters, sizes, self._profile, self._config)

    def profile(self) -> dict[str, Any]:
        return self._profile.as_dict()


def limit_openmp_spinning() -> None:
    """Makes OpenMP threads that wait for each other give up their core after some turns, instead of spinning for
    milliseconds on a machine that runs anything else. OpenMP reads it once: call it before torch is imported."""
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPIN_COUNT)


def open_platform(settings: BenchSettings) -> Platform:
    """The platform ``--device`` names. Imports torch only for a real device."""
    kind, _, name = settings.device.partition(":")
    simulated, real = ("tensor_parallel_size", "profile"), ("lora_dir", "dtype", "backend", "enforce_eager")
    for option in real if kind == "sim" else simulated:
        if getattr(settings, option) not in (None, False):
            raise LibraError(f"--{option.replace('_', '-')} means nothing on --device {settings.device}; leave it out")
    if kind == "sim":
        return SimulatedPlatform(settings, name)
    if settings.device in REAL_DEVICES:
        limit_openmp_spinning()
        from bench.platform_real import RealPlatform

        return RealPlatform(settings)
    raise unknown("device", settings.device, [*REAL_DEVICES, *(f"sim:{device}" for device in DEVICES)])
