"""The real engine's steps beside what a profile says of the very same batches: an error without any queueing in it."""

from dataclasses import dataclass, replace

from bench.platform import Platform
from bench.step_log import NotedStep, NotingExecutor
from bench.wrapped_platform import WrappedPlatform
from libra.cache.policy import CachePolicy
from libra.clock import VirtualClock
from libra.engine.build import CacheSizes
from libra.engine.engine import Engine
from libra.engine.profile import Profile
from libra.engine.roofline import RooflineExecutor
from libra.spec import AdapterSpec, ModelSpec


@dataclass(frozen=True)
class AuditedStep:
    """Seconds that a step took, and what the profile says of it; ``has_chunk``: it computed prompt tokens."""

    measured_s: float
    expected_s: float
    has_chunk: bool


class AuditedPlatform(WrappedPlatform):
    """``real``, whose engines have their steps noted; ``audit`` is of the engine that was made last."""

    def __init__(self, real: Platform, profile: Profile) -> None:
        super().__init__(real)
        self._profile = profile
        self._adapters: list[AdapterSpec] = []
        self._steps: list[NotedStep] = []

    def engine(self, policy: CachePolicy, adapters: list[AdapterSpec], sizes: CacheSizes) -> Engine:
        engine = self._real.engine(policy, adapters, sizes)
        executor = engine.executor = NotingExecutor(engine.executor, engine.clock)
        self._adapters, self._steps = adapters, executor.steps
        return engine

    def audit(self) -> list[AuditedStep]:
        """The steps so far. Asked for after a run: to ask the profile on the way would take time between steps."""
        return audit_steps(self._steps, self._profile, self.model, self._adapters)

    def profile(self) -> None:
        return None


def audit_steps(
    steps: list[NotedStep], profile: Profile, model: ModelSpec, adapters: list[AdapterSpec]
) -> list[AuditedStep]:
    """``steps`` beside what ``profile`` says of them."""
    clock = VirtualClock()
    expected = RooflineExecutor(clock, profile, model, adapters)
    audited = []
    for step in steps:
        began_s = clock.now()
        expected.execute(step.batch(), 1, began_s)
        audited.append(AuditedStep(step.seconds, clock.now() - began_s, step.num_chunks > 0))
    return audited


def of_steps_alone(profile: Profile) -> Profile:
    """``profile`` without what was measured around its steps."""
    around = ((profile.fit or {}).get("running") or {}).get("around", {})
    return replace(profile, **{name: max(getattr(profile, name) - seconds, 0.0) for name, seconds in around.items()})
