"""`libra bench`: every policy on the same requests, seed by seed."""

from dataclasses import dataclass, field
from typing import Any

from bench.conditions import Conditions
from bench.metrics import MeasureOptions, PolicySummary, summarise
from bench.oracle import Choice, find_choice, settle, working_candidates
from bench.platform import Platform, open_platform
from bench.progress import run_progress
from bench.settings import BenchSettings
from bench.setup import SeedSetup, conditions_of, prepare, run_setup
from bench.slo import Multiple, parse_limits
from bench.slo_reference import resolve
from libra.cache.policy import CachePolicy
from libra.engine.record import RunResult
from libra.errors import LibraError
from workloads.trace import trace_sha256


@dataclass
class BenchOutcome:
    """All runs so far; ``partial`` when the run was interrupted. ``notes`` say what a reader of the table must know.
    ``candidates``: the figures of all candidates of open choices, the chosen one among them."""

    policies: list[CachePolicy]
    results: list[RunResult]
    conditions: Conditions
    trace_sha256: dict[int, str]
    profile: dict[str, Any] | None
    options: MeasureOptions
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    candidates: list[PolicySummary] = field(default_factory=list)
    partial: bool = False

    def summaries(self) -> list[PolicySummary]:
        """One per policy that has at least one run."""
        by_policy: dict[str, list[RunResult]] = {}
        for result in self.results:
            by_policy.setdefault(result.policy, []).append(result)
        return [summarise(runs, self.options) for runs in by_policy.values()]


@dataclass(frozen=True)
class Ground:
    """What runs of the same requests on the same device share, whatever their policies: made once for all of them."""

    platform: Platform
    setups: list[SeedSetup]

    @classmethod
    def of(cls, settings: BenchSettings) -> "Ground":
        """Makes or loads the traces. Raises LibraError for whatever is wrong with the settings or a trace."""
        platform = open_platform(settings)
        return cls(platform, [prepare(settings, platform, seed) for seed in settings.seeds])


def run_bench(settings: BenchSettings, *, disable_tqdm: bool = False, ground: Ground | None = None) -> BenchOutcome:
    """Runs the policies that ``settings`` name; see run_choices."""
    choices = [find_choice(name) for name in settings.policies]
    return run_choices(settings, choices, disable_tqdm=disable_tqdm, ground=ground)


def run_policies(settings: BenchSettings, policies: list[CachePolicy], *, disable_tqdm: bool = False) -> BenchOutcome:
    """Runs these policies; see run_choices."""
    return run_choices(settings, [Choice.of(policy) for policy in policies], disable_tqdm=disable_tqdm)


def run_choices(
    settings: BenchSettings, choices: list[Choice], *, disable_tqdm: bool = False, ground: Ground | None = None
) -> BenchOutcome:
    """Runs every policy on the same requests, seed by seed, and keeps the best candidate of each choice. ``ground``:
    that of ``settings``, where it has been made already.

    A KeyboardInterrupt ends the run and keeps what there is. Raises LibraError for whatever is wrong with the settings
    or the trace, before the first run where it can be known.
    """
    names = [choice.name for choice in choices]
    if len(set(names)) < len(names):
        raise LibraError(f"two policies have one name ({', '.join(names)}); give yours another: replace(..., name=...)")
    limits = parse_limits(settings.goodput)
    ground = ground or Ground.of(settings)
    platform, setups = ground.platform, ground.setups
    policies = [policy for choice in choices for policy in working_candidates(choice, platform, setups, settings)]
    objectives = resolve(limits, platform, setups)
    outcome = BenchOutcome(
        policies=policies,
        results=[],
        conditions=conditions_of(settings, platform, setups),
        trace_sha256={setup.seed: trace_sha256(setup.trace) for setup in setups},
        profile=platform.profile(),
        options=MeasureOptions(warmup_s=settings.warmup_s, objectives=objectives),
        warnings=[warning for setup in setups[:1] for warning in setup.trace.header.warnings],
    )
    if any(isinstance(limit, Multiple) for limit in limits.values()):
        outcome.notes.append(f"objectives {' '.join(settings.goodput)} come to {objectives} (ms)")
    with run_progress(len(policies) * len(setups), disable_tqdm=disable_tqdm) as progress:
        for setup in setups:
            for policy in policies:
                if outcome.partial:
                    break
                with progress.run(policy.name, setup.seed, len(setup.trace.requests)) as on_progress:
                    result = run_setup(platform, policy, setup, on_progress)
                bound = setup.bound(result)
                result.counters |= {"miss_bound_bytes": bound.num_bytes, "compulsory_bytes": bound.compulsory_bytes}
                outcome.results.append(result)
                outcome.partial = not result.complete
    for choice in choices:
        settle(choice, outcome)
    return outcome
