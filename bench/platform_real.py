"""The real engine, on this machine's CPU or its GPU. Imports torch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.platform import Platform
from bench.real_device import REAL_DEVICES, is_preset, open_network
from bench.settings import BenchSettings
from libra.cache.policy import CachePolicy
from libra.engine.build import CacheSizes
from libra.engine.build_real import RealLink, build_real_engine, find_adapters, open_device
from libra.engine.device import CpuDevice, Device
from libra.engine.engine import Engine
from libra.engine.profile import Profile
from libra.errors import LibraError
from libra.model.adapter_store import AdapterStore
from libra.model.adapter_weights import AdapterWeights
from libra.model.llama import LlamaModel
from libra.model.random_model import RandomAdapters
from libra.spec import AdapterSpec
from workloads.trace import Trace
from workloads.transform import cap_lengths


class RealPlatform(Platform):
    """A Hugging Face directory with its PEFT adapters, a small random model made on first use, or on a GPU a preset's
    shapes with random weights and adapters.

    ``pace`` drives its engines in virtual time on that profile (see build_real_engine).
    """

    pace: Profile | None = None

    def __init__(self, settings: BenchSettings, device: Device | None = None) -> None:
        """``device`` None: the one that ``settings`` name."""
        self.device = device or open_device(settings.device)
        self.defaults = REAL_DEVICES[settings.device]
        name = settings.model or self.defaults.model
        dtype, backend = settings.dtype or self.defaults.dtype, settings.backend or self.defaults.backend
        self.network: LlamaModel = open_network(
            name, self.device, dtype, backend, self.defaults, settings.num_loras, settings.ranks
        )
        self.model = self.network.spec
        self._config = settings.engine
        self._link = RealLink(settings.link_gbps)
        self._graphs = not settings.enforce_eager
        self._store = self._adapters(settings, is_preset(name))

    def _adapters(self, settings: BenchSettings, is_random: bool) -> AdapterWeights:
        block_tokens, dtype = self._config.block_tokens, self.network.dtype
        if is_random and settings.lora_dir is None and self.device is not None:
            count, ranks = settings.num_loras or self.defaults.num_loras, settings.ranks or self.defaults.ranks
            return RandomAdapters(self.model, block_tokens, dtype, self.device.place, count, ranks)
        store = AdapterStore(self.model, block_tokens, dtype)
        for path in _adapter_paths(settings.lora_dir or self.network.config.directory / "adapters"):
            store.add(path)
        return store

    def fit(self, trace: Trace) -> Trace:
        """Gives the trace's adapters, in order of their names, the names of those there are; caps contexts to the
        model's longest."""
        wanted, found = sorted(trace.header.adapters), list(self._store)
        if len(wanted) > len(found):
            raise LibraError(f"the workload has {len(wanted)} adapters, the model {len(found)}; use --num-loras")
        names: dict[str | None, str | None] = {None: None, **dict(zip(wanted, found, strict=False))}
        requests = tuple(replace(request, adapter=names[request.adapter]) for request in trace.requests)
        adapters = {str(names[name]): self._store[str(names[name])].rank for name in trace.header.adapters}
        renamed = Trace(replace(trace.header, adapters=adapters), requests)
        longest = self.network.config.max_length
        output = max(request.output_tokens for request in requests)
        return cap_lengths(renamed, max_prompt_tokens=max(1, longest - output), max_output_tokens=longest - 1)

    def all_adapters(self) -> list[AdapterSpec]:
        """Every adapter there is, by name."""
        return list(self._store.values())

    def adapters(self, trace: Trace, seed: int) -> list[AdapterSpec]:
        return [self._store[name] for name in trace.header.adapters]

    def default_hbm_bytes(self) -> float:
        """Raises LibraError on a CPU, which has none, and where the weights leave no room."""
        return (self.device or CpuDevice()).cache_bytes(self.model)

    def engine(self, policy: CachePolicy, adapters: list[AdapterSpec], sizes: CacheSizes) -> Engine:
        names = [spec.adapter_id for spec in adapters]
        return build_real_engine(
            policy,
            self.network,
            self._store,
            names,
            sizes,
            self._config,
            self._link,
            self.pace,
            self.device,
            self._graphs,
        )

    def profile(self) -> None:
        return None


def _adapter_paths(directory: Path) -> Sequence[Path]:
    found = find_adapters(directory)
    if not found:
        raise LibraError(f"no PEFT adapter below {directory}; give --lora-dir")
    return found
