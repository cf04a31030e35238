"""Options of `libra bench`, with their defaults in one place; the command line reads them from here."""

from dataclasses import dataclass, field
from pathlib import Path

from libra.engine.config import EngineConfig
from libra.errors import LibraError, unknown
from libra.kernels import BACKENDS
from workloads.demand import Demand, check_num_adapters

DEFAULT_POLICIES = ("fastlibra", "vllm", "vllm-offload", "slora", "lru", "order-only")
# Over a slower link one adapter takes minutes, and a simulation ticks through all of them.
MIN_LINK_GBPS = 1e-3


@dataclass(frozen=True)
class BenchSettings:
    """What to run. None means "not given": a trace's own value, or the device's default (``DeviceDefaults``).

    Rates are requests per second, durations seconds. ``hbm_cache_gib`` and ``cache_fraction`` (of the working set) are
    two ways to size the same thing. ``host_cache_gib`` infinite holds everything the trace makes.
    """

    workload: str | None = None
    trace: Path | None = None
    policies: tuple[str, ...] = DEFAULT_POLICIES
    device: str = "sim:h800"
    model: str | None = None
    lora_dir: Path | None = None
    tensor_parallel_size: int | None = None
    profile: Path | None = None
    num_loras: int | None = None
    ranks: tuple[int, ...] | None = None
    request_rate: float | None = None
    duration_s: float | None = None
    popularity: str | None = None
    arrivals: str = Demand.arrivals
    burstiness: float = Demand.burstiness
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    seed: int = 0
    repeats: int = 1
    hbm_cache_gib: float | None = None
    cache_fraction: float | None = None
    host_cache_gib: float | None = None
    link_gbps: float | None = None
    dtype: str | None = None
    backend: str | None = None
    enforce_eager: bool = False
    warmup_s: float = 0.0
    goodput: tuple[str, ...] = ()
    baseline: str | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    out: Path | None = None

    def __post_init__(self) -> None:
        if (self.workload is None) == (self.trace is None):
            raise LibraError("name either --workload (chatbot, agents, ...) or --trace FILE, not both or none")
        if self.hbm_cache_gib is not None and self.cache_fraction is not None:
            raise LibraError("--hbm-cache-gib and --cache-fraction size the same cache: give one of them")
        positive = ("hbm_cache_gib", "cache_fraction", "host_cache_gib", "link_gbps", "request_rate", "duration_s")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise LibraError(f"--{name.removesuffix('_s').replace('_', '-')} must be above 0, got {value}")
        if self.link_gbps is not None and self.link_gbps < MIN_LINK_GBPS:
            raise LibraError(f"--link-gbps must be at least {MIN_LINK_GBPS:g} (1 MB/s), got {self.link_gbps:g}")
        if self.num_loras is not None:
            check_num_adapters(self.num_loras)
        if self.trace is not None and (self.arrivals, self.burstiness) != (Demand.arrivals, Demand.burstiness):
            raise LibraError("--arrivals and --burstiness are for --workload: a trace has its own; leave them out")
        if self.repeats < 1 or self.seed < 0 or self.warmup_s < 0:
            raise LibraError("--repeats must be at least 1, --seed and --warmup-duration at least 0")
        if self.backend not in (None, *BACKENDS):
            raise unknown("backend", str(self.backend), BACKENDS)
        if not self.policies:
            raise LibraError("--policy names no policy")
        if len(set(self.policies)) < len(self.policies):
            raise LibraError(f"--policy names a policy twice: {', '.join(self.policies)}")
        if self.baseline is not None and self.baseline not in self.policies:
            raise unknown("baseline", self.baseline, self.policies)

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.repeats)


@dataclass(frozen=True)
class DeviceDefaults:
    """What a device makes of options that were not given. ``cache_fraction`` None: the device's own memory."""

    model: str
    num_loras: int
    ranks: tuple[int, ...]
    request_rate: float
    duration_s: float
    cache_fraction: float | None
    host_cache_gib: float
    dtype: str = "float32"
    backend: str = "torch"


# The paper's machine: 256 GB of host memory, 50 of its 20/50/100 adapters, 1,800 s (HPCA version, section VI).
SIMULATED = DeviceDefaults("llama3-8b", 50, (32, 64), Demand.request_rate, Demand.duration_s, None, 256.0)
# A run that a laptop finishes in about a minute a policy.
CPU = DeviceDefaults("32m", 8, (16, 32), 0.5, 30.0, 0.75, 4.0)
# 8B shapes with random weights. The host tier is pinned at the start: its size is one that most machines bear.
CUDA = DeviceDefaults("llama3-8b", 50, (32, 64), 5.0, 60.0, None, 32.0, "bfloat16", "triton")
