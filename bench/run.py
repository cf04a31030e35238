"""`libra bench`: every policy on the same requests, seed by seed."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from baselines import find_policy
from bench.conditions import Conditions
from bench.metrics import MeasureOptions, PolicySummary, summarise
from bench.platform import Platform, open_platform
from bench.progress import RunProgress, run_progress
from bench.settings import BenchSettings
from bench.slo import parse_objectives
from libra.cache.policy import CachePolicy
from libra.engine.build import CacheSizes, build_simulated_engine
from libra.engine.config import EngineConfig
from libra.engine.profile import datasheet_profile
from libra.engine.record import RunResult
from libra.engine.replay import replay
from libra.errors import LibraError
from libra.spec import DEVICES, GIB, AdapterSpec
from workloads.demand import Demand
from workloads.load import load_trace
from workloads.registry import WORKLOADS
from workloads.trace import Trace, trace_sha256
from workloads.transform import reshape
from workloads.working_set import working_set


@dataclass(frozen=True)
class SeedSetup:
    """One seed's trace, adapters and cache, the same for every policy."""

    seed: int
    trace: Trace
    adapters: list[AdapterSpec]
    sizes: CacheSizes
    working_set_gib: float


@dataclass
class BenchOutcome:
    """All runs so far; ``partial`` when the run was interrupted."""

    policies: list[CachePolicy]
    results: list[RunResult]
    conditions: Conditions
    trace_sha256: dict[int, str]
    profile: dict[str, Any] | None
    options: MeasureOptions
    warnings: list[str] = field(default_factory=list)
    partial: bool = False

    def summaries(self) -> list[PolicySummary]:
        """One per policy that has at least one run."""
        by_policy: dict[str, list[RunResult]] = {}
        for result in self.results:
            by_policy.setdefault(result.policy, []).append(result)
        return [summarise(runs, self.options) for runs in by_policy.values()]


def run_bench(settings: BenchSettings, *, disable_tqdm: bool = False) -> BenchOutcome:
    """Runs the policies that ``settings`` name; see run_policies."""
    return run_policies(settings, [find_policy(name) for name in settings.policies], disable_tqdm=disable_tqdm)


def run_policies(settings: BenchSettings, policies: list[CachePolicy], *, disable_tqdm: bool = False) -> BenchOutcome:
    """Runs every policy on the same requests, seed by seed. A KeyboardInterrupt ends the run and keeps what there is.

    Raises LibraError for whatever is wrong with the settings or the trace, before the first run where it can be known.
    """
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise LibraError(f"two policies have one name ({', '.join(names)}); give yours another: replace(..., name=...)")
    options = MeasureOptions(warmup_s=settings.warmup_s, objectives=parse_objectives(settings.goodput))
    platform = open_platform(settings)
    setups = [_prepare(settings, platform, seed) for seed in settings.seeds]
    for setup in setups:
        for policy in policies:
            _check(platform, policy, setup, settings.engine)
    outcome = BenchOutcome(
        policies=policies,
        results=[],
        conditions=_conditions(settings, platform, setups),
        trace_sha256={setup.seed: trace_sha256(setup.trace) for setup in setups},
        profile=platform.profile(),
        options=options,
        warnings=[warning for setup in setups[:1] for warning in setup.trace.header.warnings],
    )
    with run_progress(len(policies) * len(setups), disable_tqdm=disable_tqdm) as progress:
        for setup in setups:
            for policy in policies:
                result = _run_one(platform, policy, setup, progress)
                outcome.results.append(result)
                if not result.complete:
                    outcome.partial = True
                    return outcome
    return outcome


def _run_one(platform: Platform, policy: CachePolicy, setup: SeedSetup, progress: RunProgress) -> RunResult:
    engine = platform.engine(policy, setup.adapters, setup.sizes)
    try:
        with progress.run(policy.name, setup.seed, len(setup.trace.requests)) as on_progress:
            return replay(engine, setup.trace.requests, setup.seed, on_progress)
    finally:
        engine.manager.memory.link.close()


def _prepare(settings: BenchSettings, platform: Platform, seed: int) -> SeedSetup:
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
    return SeedSetup(seed, trace, adapters, sizes, needed.gib)


def _everything(trace: Trace, adapters: Iterable[AdapterSpec], block_tokens: int) -> int:
    """Blocks of all KV a trace can make, and room for its adapters: a host tier this large never drops anything."""
    kv = sum(-(-(r.num_prompt_tokens + r.output_tokens) // block_tokens) for r in trace.requests)
    return kv + 1024 * len(list(adapters))


def _trace(settings: BenchSettings, platform: Platform, seed: int) -> Trace:
    defaults = platform.defaults
    if settings.trace is not None:
        trace = load_trace(settings.trace, settings.num_loras, settings.popularity, seed)
        rate, duration_s = settings.request_rate, settings.duration_s
    else:
        demand = Demand(
            num_adapters=settings.num_loras or defaults.num_loras,
            request_rate=settings.request_rate or defaults.request_rate,
            duration_s=settings.duration_s or defaults.duration_s,
            seed=seed,
            popularity=settings.popularity,
            arrivals=settings.arrivals,
            burstiness=settings.burstiness,
        )
        trace = WORKLOADS[settings.workload or ""].generate(demand)
        rate = duration_s = None
    return reshape(trace, rate, duration_s, settings.max_prompt_tokens, settings.max_output_tokens)


def _check(platform: Platform, policy: CachePolicy, setup: SeedSetup, config: EngineConfig) -> None:
    """Refuses, before anything runs, a policy that cannot work in this cache and a cache in which no request fits."""
    # What fits is a matter of blocks alone, so a simulated engine tells for any platform, at once.
    profile = datasheet_profile(DEVICES["h800"], platform.model, 1)
    engine = build_simulated_engine(policy, platform.model, setup.adapters, setup.sizes, profile, config)
    reasons = (
        engine.manager.reason_never_fits(request.adapter, request.num_prompt_tokens + request.output_tokens)
        for request in setup.trace.requests
    )
    first = next(reasons)
    if first is not None and all(reason is not None for reason in reasons):
        raise LibraError(
            f"policy {policy.name!r}: none of the trace's requests fits the cache of {setup.sizes.hbm_blocks} blocks "
            f"(the first {first}); raise --hbm-cache-gib or --cache-fraction"
        )


def _conditions(settings: BenchSettings, platform: Platform, setups: list[SeedSetup]) -> Conditions:
    first = setups[0]
    block_bytes = platform.model.block_bytes(settings.engine.block_tokens)
    host_gib = settings.host_cache_gib or platform.defaults.host_cache_gib
    return Conditions(
        workload=first.trace.header.name,
        model=platform.model.name,
        num_adapters=len(first.trace.header.adapters),
        cache_gib=first.sizes.hbm_blocks * block_bytes / GIB,
        working_set_gib=sum(setup.working_set_gib for setup in setups) / len(setups),
        host_gib=host_gib if math.isfinite(host_gib) else None,
        request_rate=first.trace.request_rate,
        duration_s=first.trace.header.duration_s,
        warmup_s=settings.warmup_s,
    )
