"""What all runs of one seed share: trace, adapters, cache sizes, and what the trace will ask of the cache."""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

from bench.bound import MissBound, cell_bytes, miss_bound
from bench.conditions import Conditions
from bench.patience import Patience
from bench.platform import Platform
from bench.settings import BenchSettings
from libra.cache.foresight import Foresight
from libra.cache.policy import CachePolicy
from libra.engine.build import CacheSizes, build_simulated_engine
from libra.engine.config import EngineConfig
from libra.engine.profile import datasheet_profile
from libra.engine.record import RunResult
from libra.engine.replay import Progress, replay
from libra.errors import LibraError
from libra.request import Request
from libra.spec import DEVICES, GIB, AdapterSpec, ModelSpec
from libra.tokens import adapter_seed
from workloads.demand import Demand
from workloads.garbage import collection_paused
from workloads.load import load_trace
from workloads.registry import find_workload
from workloads.trace import Trace
from workloads.transform import reshape
from workloads.working_set import working_set


@dataclass(frozen=True)
class SeedSetup:
    """One seed's trace, adapters and cache, the same for every policy."""

    seed: int
    trace: Trace
    model: ModelSpec
    adapters: list[AdapterSpec]
    sizes: CacheSizes
    block_tokens: int
    working_set_gib: float

    @property
    def block_bytes(self) -> int:
        return self.model.block_bytes(self.block_tokens)

    @property
    def cache_gib(self) -> float:
        return self.sizes.hbm_blocks * self.block_bytes / GIB

    @cached_property
    def future(self) -> Foresight:
        """What the trace will ask of the cache; computed when first asked for."""
        return Foresight.of(self.trace.requests, self.block_tokens, self.model.vocab_size)

    def bound(self, result: RunResult) -> MissBound:
        """The fewest bytes that any cache of this size misses on the requests of ``result`` in their order."""
        weights = {adapter_seed(spec.adapter_id): spec.num_bytes(self.model) for spec in self.adapters}
        sizes = cell_bytes(self.future, weights, self.block_bytes)
        return miss_bound(self.future, result.records, sizes, self.sizes.hbm_blocks * self.block_bytes)


def prepare(settings: BenchSettings, platform: Platform, seed: int) -> SeedSetup:
    """Makes or loads the trace of ``seed`` and sizes the cache for it. Raises LibraError."""
    trace = platform.fit(_trace(settings, platform, seed))
    adapters = platform.adapters(trace, seed)
    block_tokens = settings.engine.block_tokens
    block_bytes = platform.model.block_bytes(block_tokens)
    needed = working_set(trace, platform.model, adapters, block_tokens)
    fraction = settings.cache_fraction or (None if settings.hbm_cache_gib else platform.defaults.cache_fraction)
    if settings.hbm_cache_gib is not None:
        hbm_bytes = settings.hbm_cache_gib * GIB
    elif fraction is not None:
        hbm_bytes = fraction * needed.num_bytes
    else:
        hbm_bytes = platform.default_hbm_bytes()
    host_gib = settings.host_cache_gib or platform.defaults.host_cache_gib
    host_bytes = host_gib * GIB if math.isfinite(host_gib) else _everything(trace, adapters, block_tokens) * block_bytes
    sizes = CacheSizes.from_bytes(hbm_bytes, host_bytes, block_bytes)
    return SeedSetup(seed, trace, platform.model, adapters, sizes, block_tokens, needed.gib)


def run_setup(
    platform: Platform,
    policy: CachePolicy,
    setup: SeedSetup,
    on_progress: Progress,
    patience: Patience | None = None,
) -> RunResult:
    """One policy on one seed's requests. Raises HopelessRun when ``patience`` runs out."""
    # In real time the collector is part of what is measured. In a simulation it only finds the engine that has ended.
    with nullcontext() if platform.profile() is None else collection_paused():
        return _run_engine(platform, policy, setup, on_progress, patience)


def _run_engine(
    platform: Platform, policy: CachePolicy, setup: SeedSetup, on_progress: Progress, patience: Patience | None
) -> RunResult:
    engine = platform.engine(policy, setup.adapters, setup.sizes)
    if patience is not None:
        on_progress = patience.watch(engine, len(setup.trace.requests), on_progress)
    future = setup.future if policy.ranker.needs_future else None
    try:
        result = replay(engine, setup.trace.requests, setup.seed, on_progress, future)
    finally:
        engine.manager.memory.link.close()
    if engine.executor.fallback is not None:
        result.extra["backend_fallback"] = engine.executor.fallback
    return result


def check(platform: Platform, policy: CachePolicy, setup: SeedSetup, config: EngineConfig) -> None:
    """Refuses, before anything runs, a policy that cannot work in this cache and a cache in which no request fits."""
    # What fits is a matter of blocks alone, so a simulated engine tells for any platform, at once.
    profile = datasheet_profile(DEVICES["h800"], platform.model, 1)
    engine = build_simulated_engine(policy, platform.model, setup.adapters, setup.sizes, profile, config)
    reasons = (engine.manager.reason_never_fits(request.adapter, _length(request)) for request in setup.trace.requests)
    first = next(reasons)
    if first is not None and all(reason is not None for reason in reasons):
        raise LibraError(
            f"policy {policy.name!r}: none of the trace's requests fits the cache of {setup.sizes.hbm_blocks} blocks "
            f"(the first {first}); raise --hbm-cache-gib or --cache-fraction"
        )


def conditions_of(settings: BenchSettings, platform: Platform, setups: list[SeedSetup]) -> Conditions:
    """What a table must state about runs of ``setups``."""
    first = setups[0]
    host_gib = settings.host_cache_gib or platform.defaults.host_cache_gib
    return Conditions(
        workload=first.trace.header.name,
        model=platform.model.name,
        num_adapters=len(first.trace.header.adapters),
        cache_gib=first.cache_gib,
        working_set_gib=sum(setup.working_set_gib for setup in setups) / len(setups),
        host_gib=host_gib if math.isfinite(host_gib) else None,
        request_rate=first.trace.request_rate,
        duration_s=first.trace.header.duration_s,
        warmup_s=settings.warmup_s,
    )


def _length(request: Request) -> int:
    return request.num_prompt_tokens + request.output_tokens


def _everything(trace: Trace, adapters: Iterable[AdapterSpec], block_tokens: int) -> int:
    """Blocks of all KV a trace can make, and room for its adapters: a host tier this large never drops anything."""
    kv = sum(-(-_length(request) // block_tokens) for request in trace.requests)
    return kv + 1024 * len(list(adapters))


def _trace(settings: BenchSettings, platform: Platform, seed: int) -> Trace:
    defaults = platform.defaults
    if settings.trace is not None:
        trace = load_trace(settings.trace, settings.num_loras, settings.popularity, seed)
        rate, duration_s = settings.request_rate, settings.duration_s
    else:
        workload = find_workload(settings.workload or "")
        demand = Demand(
            num_adapters=settings.num_loras or workload.num_adapters or defaults.num_loras,
            request_rate=settings.request_rate or defaults.request_rate,
            duration_s=settings.duration_s or defaults.duration_s,
            seed=seed,
            popularity=settings.popularity,
            arrivals=settings.arrivals,
            burstiness=settings.burstiness,
        )
        trace = workload.generate(demand)
        rate = duration_s = None
    return reshape(trace, rate, duration_s, settings.max_prompt_tokens, settings.max_output_tokens)
