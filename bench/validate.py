"""`libra validate`: the same requests on the real engine and in simulation, and how far apart they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.audit import AuditedPlatform, AuditedStep, of_steps_alone
from bench.columns import MILLISECONDS
from bench.conditions import Conditions
from bench.metrics import MeasureOptions, summarise
from bench.oracle import Choice, working_candidates
from bench.platform import Platform
from bench.progress import run_progress
from bench.settings import BenchSettings
from bench.setup import SeedSetup, conditions_of, prepare, run_setup
from bench.twin import SimulatedTwin
from libra.cache.policy import CachePolicy
from libra.engine.profile import Profile
from libra.engine.record import RunResult
from workloads.trace import trace_sha256

# Of the same batches, real ones and what the profile says of them: no queueing, no decision is in it. Of all steps, of
# those that only decode, and of those with prompt tokens.
STEPS = ("mean_step_ms", "mean_decode_step_ms", "mean_prefill_step_ms")
LATENCIES = tuple(f"{part}_{name}_ms" for name in ("ttft", "tpot") for part in ("mean", "p50", "p95", "p99"))
HIT_RATES = ("adapter_hit_rate", "kv_hit_rate", "kv_host_hit_rate")
HIT_COUNTS = ("completed", "adapter_hits", "kv_hit_tokens", "kv_host_hit_tokens")
# Largest relative errors aimed at; 0 asks for equal figures.
GOALS = {"mean_ttft_ms": 0.08, "mean_tpot_ms": 0.08, "p95_ttft_ms": 0.15, "p95_tpot_ms": 0.15} | dict.fromkeys(
    HIT_COUNTS, 0.0
)


@dataclass(frozen=True)
class Deviation:
    """One figure of one policy, measured and simulated; None where a side does not have it."""

    policy: str
    metric: str
    real: float | None
    simulated: float | None

    @property
    def error(self) -> float | None:
        """Simulated less real."""
        return None if self.real is None or self.simulated is None else self.simulated - self.real

    @property
    def relative(self) -> float | None:
        """The error over the real figure; 0 where both are 0, None where only the real one is."""
        if self.error is None or self.real is None:
            return None
        return self.error / self.real if self.real else (0.0 if self.error == 0 else None)

    @property
    def goal(self) -> float | None:
        return GOALS.get(self.metric)

    @property
    def meets_goal(self) -> bool | None:
        """None where nothing is aimed at, or where a side lacks the figure."""
        if self.goal is None or self.error is None:
            return None
        return self.error == 0 if self.relative is None else abs(self.relative) <= self.goal


@dataclass
class Validation:
    """All runs so far, one of ``simulated`` and one audit for each of ``real``; ``partial`` when it was interrupted."""

    policies: list[CachePolicy]
    conditions: Conditions
    profile: Profile
    trace_sha256: dict[int, str]
    options: MeasureOptions
    paced: bool
    real: list[RunResult] = field(default_factory=list)
    simulated: list[RunResult] = field(default_factory=list)
    audits: list[list[AuditedStep]] = field(default_factory=list)
    partial: bool = False

    def deviations(self) -> list[Deviation]:
        """Per policy that has runs: the steps, latencies and hit rates as means over seeds, hit counts as sums."""
        found: list[Deviation] = []
        for policy in self._run_policies():
            found += self._steps(policy)
            real, simulated = (_figures(self._runs(side, policy), self.options) for side in (self.real, self.simulated))
            found += [Deviation(policy, metric, real[metric], simulated[metric]) for metric in real]
        return found

    @property
    def saturated(self) -> list[str]:
        """Policies with a saturated real run, whose TTFT is a matter of the run's length."""
        policies = self._run_policies()
        return [name for name in policies if summarise(self._runs(self.real, name), self.options).saturated]

    def _steps(self, policy: str) -> list[Deviation]:
        runs = zip(self.audits, self.real, strict=True)
        steps = [step for audit, run in runs if run.policy == policy for step in audit]
        kinds = (steps, [s for s in steps if not s.has_chunk], [s for s in steps if s.has_chunk])
        return [_mean_step(policy, metric, kind) for metric, kind in zip(STEPS, kinds, strict=True)]

    def _run_policies(self) -> list[str]:
        return list(dict.fromkeys(result.policy for result in self.real))

    @staticmethod
    def _runs(results: Sequence[RunResult], policy: str) -> list[RunResult]:
        return [result for result in results if result.policy == policy]


def _mean_step(policy: str, metric: str, steps: Sequence[AuditedStep]) -> Deviation:
    if not steps:
        return Deviation(policy, metric, None, None)
    measured, expected = sum(step.measured_s for step in steps), sum(step.expected_s for step in steps)
    return Deviation(policy, metric, *(MILLISECONDS * seconds / len(steps) for seconds in (measured, expected)))


def plan_validation(settings: BenchSettings, platform: Platform, policies: Sequence[CachePolicy]) -> list[SeedSetup]:
    """What the runs of each seed share. Raises LibraError for whatever is wrong with settings, trace or policies."""
    setups = [prepare(settings, platform, seed) for seed in settings.seeds]
    for policy in policies:
        working_candidates(Choice.of(policy), platform, setups, settings)
    return setups


def run_validation(
    settings: BenchSettings,
    platform: Platform,
    setups: list[SeedSetup],
    profile: Profile,
    policies: Sequence[CachePolicy],
    *,
    paced: bool = False,
    disable_tqdm: bool = False,
) -> Validation:
    """Every policy on the same requests, seed by seed, for real and in simulation.

    A KeyboardInterrupt ends it and keeps the pairs there are. Raises LibraError for a profile of another model.
    """
    twin = SimulatedTwin(platform, profile, settings.engine, settings.device)
    # On the simulation's clock a step takes all that the profile says; else what lies between steps is not in it.
    audited = AuditedPlatform(platform, profile if paced else of_steps_alone(profile))
    found = Validation(
        policies=list(policies),
        conditions=conditions_of(settings, platform, setups),
        profile=profile,
        trace_sha256={setup.seed: trace_sha256(setup.trace) for setup in setups},
        options=MeasureOptions(warmup_s=settings.warmup_s),
        paced=paced,
    )
    with run_progress(len(policies) * len(setups), disable_tqdm=disable_tqdm) as progress:
        for setup in setups:
            for policy in policies:
                with progress.run(policy.name, setup.seed, len(setup.trace.requests)) as on_progress:
                    real = run_setup(audited, policy, setup, on_progress)
                if not real.complete:
                    found.partial = True
                    return found
                found.real.append(real)
                found.audits.append(audited.audit())
                found.simulated.append(run_setup(twin, policy, setup, _ignore))
    return found


def _figures(runs: Sequence[RunResult], options: MeasureOptions) -> dict[str, float | None]:
    summary = summarise(runs, options)
    figures = {metric: summary.mean(metric) for metric in (*LATENCIES, *HIT_RATES)}
    counted = (record for run in runs for record in run.records if record.arrival_s >= options.warmup_s)
    finished = [record for record in counted if record.status == "finished"]
    return figures | {
        "completed": len(finished),
        "adapter_hits": sum(record.adapter_tier == "hbm" for record in finished),
        "kv_hit_tokens": sum(record.hbm_hit_tokens for record in finished),
        "kv_host_hit_tokens": sum(record.host_hit_tokens for record in finished),
    }


def _ignore(time_s: float, num_done: int) -> None:
    """A simulation is over too soon to be watched."""
