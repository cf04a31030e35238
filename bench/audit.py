"""The real engine's steps beside what a profile says of the very same batches: an error without any queueing in it."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

from bench.platform import Platform
from bench.wrapped_platform import WrappedPlatform
from libra.cache.policy import CachePolicy
from libra.clock import Clock, VirtualClock
from libra.engine.build import CacheSizes
from libra.engine.engine import Engine
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.profile import Profile
from libra.engine.roofline import RooflineExecutor
from libra.spec import AdapterSpec


@dataclass
class StepAudit:
    """Seconds of the steps of one run, measured and by the profile."""

    measured_s: list[float] = field(default_factory=list)
    expected_s: list[float] = field(default_factory=list)


class AuditedPlatform(WrappedPlatform):
    """``real``, whose engines note every step in ``audit``, which each new engine empties."""

    def __init__(self, real: Platform, profile: Profile) -> None:
        super().__init__(real)
        self.audit = StepAudit()
        self._profile = profile

    def engine(self, policy: CachePolicy, adapters: list[AdapterSpec], sizes: CacheSizes) -> Engine:
        engine = self._real.engine(policy, adapters, sizes)
        self.audit = StepAudit()
        virtual = VirtualClock()
        expected = RooflineExecutor(virtual, _of_steps_alone(self._profile), self.model, adapters)
        engine.executor = _AuditedExecutor(engine.executor, expected, engine.clock, virtual, self.audit)
        return engine

    def profile(self) -> None:
        return None


def _of_steps_alone(profile: Profile) -> Profile:
    """``profile`` without what was measured around its steps."""
    loop = (profile.fit or {}).get("loop")
    if loop is None:
        return profile
    return replace(
        profile,
        step_overhead_s=max(profile.step_overhead_s - loop["step_s"], 0.0),
        sequence_s=max(profile.sequence_s - loop["sequence_s"], 0.0),
    )


class _AuditedExecutor(Executor):
    """Computes on ``real`` and asks the profile what it should have taken."""

    def __init__(
        self, real: Executor, expected: RooflineExecutor, clock: Clock, virtual: VirtualClock, audit: StepAudit
    ) -> None:
        self._real = real
        self._expected = expected
        self._clock = clock
        self._virtual = virtual
        self._audit = audit

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        started_s = self._clock.now()
        result = self._real.execute(batch, 1, until_s)
        self._audit.measured_s.append(result.step_ends[-1] - started_s)
        began_s = self._virtual.now()
        self._expected.execute(batch, 1, began_s)
        self._audit.expected_s.append(self._virtual.now() - began_s)
        return result

    def prefill_seconds(self, num_tokens: int) -> float:
        return self._real.prefill_seconds(num_tokens)

    def step_seconds(self, adapters: Items[str | None], tokens_each: int) -> float:
        return self._real.step_seconds(adapters, tokens_each)

    def add_adapter(self, spec: AdapterSpec) -> None:
        self._real.add_adapter(spec)
        self._expected.add_adapter(spec)

    def remove_adapter(self, adapter_id: str) -> None:
        self._real.remove_adapter(adapter_id)
        self._expected.remove_adapter(adapter_id)

    @property
    def fallback(self) -> str | None:
        return self._real.fallback

    def describe(self) -> str:
        return self._real.describe()
