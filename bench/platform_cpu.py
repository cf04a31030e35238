"""The real engine on this machine's CPU. The only part of the harness that imports torch."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench.platform import Platform
from bench.settings import CPU, BenchSettings
from libra.cache.policy import CachePolicy
from libra.engine.build import CacheSizes
from libra.engine.build_cpu import RealLink, build_cpu_engine, find_adapters
from libra.engine.engine import Engine
from libra.engine.profile import Profile
from libra.errors import LibraError
from libra.kernels.backend import make_backend
from libra.model.adapter_store import AdapterStore
from libra.model.llama import LlamaModel, load_model
from libra.model.tiny import TINY_SIZES, TinyAdapters, make_tiny
from libra.spec import AdapterSpec
from workloads.trace import Trace
from workloads.transform import cap_lengths

# Where random models are kept between runs.
MODELS_DIRECTORY = Path("models")


class CpuPlatform(Platform):
    """A Hugging Face directory with its PEFT adapters, or a random model made on first use.

    ``pace`` drives its engines in virtual time on that profile (see build_cpu_engine).
    """

    defaults = CPU
    pace: Profile | None = None

    def __init__(self, settings: BenchSettings) -> None:
        name = settings.model or self.defaults.model
        self._num_loras = settings.num_loras or self.defaults.num_loras
        directory = model_directory(name, self._num_loras, settings.ranks or self.defaults.ranks)
        self.network: LlamaModel = load_model(directory, settings.dtype, backend=make_backend(settings.backend))
        adapters = find_adapters(settings.lora_dir or directory / "adapters")
        if not adapters:
            raise LibraError(f"no PEFT adapter below {settings.lora_dir or directory / 'adapters'}; give --lora-dir")
        self.model = self.network.spec
        self._config = settings.engine
        self._link = RealLink(settings.link_gbps)
        self._store = AdapterStore(self.model, self._config.block_tokens, self.network.dtype)
        for path in adapters:
            self._store.add(path)

    def fit(self, trace: Trace) -> Trace:
        """Gives the trace's adapters, in order of their names, the names of those on disk; caps contexts to the
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
        """Every adapter on disk, by name."""
        return list(self._store.values())

    def adapters(self, trace: Trace, seed: int) -> list[AdapterSpec]:
        return [self._store[name] for name in trace.header.adapters]

    def default_hbm_bytes(self) -> float:
        raise LibraError("--device cpu has no HBM of its own; give --cache-fraction or --hbm-cache-gib")

    def engine(self, policy: CachePolicy, adapters: list[AdapterSpec], sizes: CacheSizes) -> Engine:
        names = [spec.adapter_id for spec in adapters]
        return build_cpu_engine(policy, self.network, self._store, names, sizes, self._config, self._link, self.pace)

    def profile(self) -> None:
        return None


def model_directory(name: str, num_loras: int, ranks: tuple[int, ...]) -> Path:
    """The directory ``name`` stands for: itself, or that of a random model of this size, made on first use."""
    made = name in TINY_SIZES and not Path(name).is_dir()
    return _random_model(name, num_loras, ranks) if made else Path(name)


def _random_model(name: str, num_loras: int, ranks: tuple[int, ...]) -> Path:
    """The random model of this size and adapter set, made on first use."""
    spec = TINY_SIZES[name]
    adapters = TinyAdapters(count=num_loras, ranks=ranks, prefix="lora")
    directory = MODELS_DIRECTORY / f"{name}-{num_loras}x{'-'.join(map(str, ranks))}"
    if not (directory / "config.json").is_file():
        Console(stderr=True).print(f"making a random {name} model with {num_loras} adapters in {directory}")
        directory.parent.mkdir(exist_ok=True)
        make_tiny(directory, spec, adapters)
    return directory
