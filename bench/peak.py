"""Peak load: the highest request rate at which a policy still meets its objectives.

Rates lie on a grid of equal ratios, ``start * (1 + tolerance) ** step``, so that all policies are tried at the same
rates on the same requests. A rate meets an objective when the upper end of the 95 % interval over seeds of the *mean*
latency lies below the limit (with one seed: the mean). That lower rates then meet it too is taken for granted, as
bisection must.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from bench.metrics import MeasureOptions, measure
from bench.oracle import Choice, find_choice, working_candidates
from bench.patience import HopelessRun, Patience, hopeless_factor
from bench.platform import Platform, open_platform
from bench.settings import BenchSettings
from bench.setup import SeedSetup, prepare, run_setup
from bench.slo import Objectives
from bench.statistics import Estimate, estimate
from libra.cache.policy import CachePolicy
from libra.errors import LibraError

# The search gives up this many doublings away from where it starts.
DOUBLINGS = 8


@dataclass(frozen=True)
class PeakRule:
    """``objectives``: limits on mean latencies. ``tolerance``: how much higher than a rate the next one is."""

    objectives: Objectives = field(default_factory=lambda: Objectives(ttft=500.0))
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if not self.objectives:
            raise LibraError('--slo sets no limit; give one, such as "ttft:500"')
        if not 0.001 <= self.tolerance <= 1:
            raise LibraError(f"--tolerance must lie between 0.001 and 1, got {self.tolerance}")

    @property
    def doubling(self) -> int:
        """Steps after which the rate is about twice as high."""
        return max(1, round(math.log(2) / math.log1p(self.tolerance)))

    def rate(self, start: float, step: int) -> float:
        return start * math.exp(step * math.log1p(self.tolerance))

    def meets(self, means: Mapping[str, Estimate]) -> bool:
        """Whether all limits hold for these means, by objective."""
        for name, limit in self.objectives.limits().items():
            if limit is not None:
                figure = means[name]
                upper = figure.mean if figure.high is None else figure.high
                if upper is None or not upper < limit:
                    return False
        return True


@dataclass(frozen=True)
class Probe:
    """One policy at one rate. ``means``: by objective, over the seeds that ran to their end, in ms. ``stopped_s``: when
    a seed's run was ended because its mean TTFT was sure to be too high; no further seed was run then."""

    policy: str
    request_rate: float
    seeds: tuple[int, ...]
    means: Mapping[str, Estimate]
    saturated_seeds: int
    meets: bool
    stopped_s: float | None = None


@dataclass(frozen=True)
class Peak:
    """``rate``: the highest that meets, None where none of those tried does. ``next_rate``: the lowest that does not,
    None where all do. ``probes`` are all that were run, in order."""

    policy: str
    rate: float | None
    next_rate: float | None
    probes: tuple[Probe, ...]

    @property
    def at_peak(self) -> Probe | None:
        return next((probe for probe in self.probes if probe.meets and probe.request_rate == self.rate), None)


@dataclass(frozen=True)
class PeakSearch:
    """All that decides a policy's peak. ``settings`` name one cache size in GiB: it must not grow with the rate."""

    settings: BenchSettings
    rule: PeakRule
    policy: str
    start_rate: float


def highest_step(meets: Callable[[int], bool], doubling: int) -> tuple[int | None, int | None]:
    """The highest step that meets and the next one, which does not; ``meets`` must be monotone.

    Goes from step 0 by ``doubling`` steps up or down until the answer changes, then bisects. The first is None when no
    step down to -8 doublings meets, the second None when all up to 8 doublings do.
    """
    limit = DOUBLINGS * doubling
    low, high = 0, 0
    if meets(0):
        while high == low:
            if low == limit:
                return low, None
            high = low + doubling
            low = high if meets(high) else low
    else:
        while low == high:
            if high == -limit:
                return None, high
            low = high - doubling
            high = low if not meets(low) else high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low, high


def plan_searches(settings: BenchSettings, rule: PeakRule) -> list[PeakSearch]:
    """One search per policy, all with the cache that the settings give at the rate they start from.

    Raises LibraError for settings that no run could have, before anything runs.
    """
    if not settings.device.startswith("sim:"):
        raise LibraError(f"--device {settings.device}: peak load is searched in simulation; give sim:h800 or another")
    platform = open_platform(settings)
    setups = [prepare(settings, platform, seed) for seed in settings.seeds]
    cache_gib = sum(setup.cache_gib for setup in setups) / len(setups)
    start_rate = settings.request_rate or setups[0].trace.request_rate
    if settings.workload is not None:
        start_rate = settings.request_rate or platform.defaults.request_rate
    fixed = replace(settings, cache_fraction=None, hbm_cache_gib=cache_gib)
    for name in settings.policies:
        working_candidates(find_choice(name), platform, setups, settings)
    return [PeakSearch(fixed, rule, name, start_rate) for name in settings.policies]


def find_peak(search: PeakSearch, on_probe: Callable[[Probe], None] | None = None) -> Peak:
    """Searches the peak of one policy; ``on_probe`` is told of each rate when it has been tried."""
    platform = open_platform(search.settings)
    choice = find_choice(search.policy)
    probes: dict[int, Probe] = {}

    @lru_cache(maxsize=len(search.settings.seeds))
    def setup(rate: float, seed: int) -> SeedSetup:
        return prepare(replace(search.settings, request_rate=rate), platform, seed)

    def meets(step: int) -> bool:
        rate = search.rule.rate(search.start_rate, step)
        probes[step] = _probe(search, choice, platform, rate, lambda seed: setup(rate, seed))
        if on_probe is not None:
            on_probe(probes[step])
        return probes[step].meets

    best, fails = highest_step(meets, search.rule.doubling)
    return Peak(
        policy=search.policy,
        rate=None if best is None else probes[best].request_rate,
        next_rate=None if fails is None else probes[fails].request_rate,
        probes=tuple(probes.values()),
    )


def _probe(
    search: PeakSearch, choice: Choice, platform: Platform, rate: float, setup: Callable[[int], SeedSetup]
) -> Probe:
    """Tries one rate; of a choice of candidates, until one meets."""
    probe: Probe | None = None
    setups = [setup(seed) for seed in search.settings.seeds]
    for policy in working_candidates(choice, platform, setups, search.settings):
        probe = _probe_policy(search, policy, platform, rate, setups)
        if probe.meets:
            break
    assert probe is not None, "working_candidates never returns none"
    return replace(probe, policy=search.policy)


def _probe_policy(
    search: PeakSearch, policy: CachePolicy, platform: Platform, rate: float, setups: list[SeedSetup]
) -> Probe:
    warmup_s, ttft_limit = search.settings.warmup_s, _ttft_limit(search.rule.objectives)
    patience = None
    if ttft_limit is not None:
        patience = Patience(ttft_limit * hopeless_factor(len(setups)), warmup_s)
    samples: list[Mapping[str, float | None]] = []
    saturated, stopped_s = 0, None
    for setup in setups:
        try:
            result = run_setup(platform, policy, setup, _unwatched, patience)
        except HopelessRun as hopeless:
            stopped_s = hopeless.at_s
            break
        if not result.complete:
            raise KeyboardInterrupt
        run = measure(result, MeasureOptions(warmup_s=warmup_s))
        saturated += run.saturated
        samples.append(run.metrics)
    means = {
        name: estimate(sample[f"mean_{name}_ms"] for sample in samples) for name in search.rule.objectives.limits()
    }
    seeds = tuple(setup.seed for setup in setups[: len(samples)])
    meets = stopped_s is None and search.rule.meets(means)
    return Probe(policy.name, rate, seeds, means, saturated, meets, stopped_s)


def _ttft_limit(objectives: Objectives) -> float | None:
    """No mean TTFT above this meets the objectives: an end-to-end latency is never shorter than its first token's."""
    limits = [limit for limit in (objectives.ttft, objectives.e2el) if limit is not None]
    return min(limits, default=None)


def _unwatched(time_s: float, num_done: int) -> None:
    """Nobody watches a single run."""
