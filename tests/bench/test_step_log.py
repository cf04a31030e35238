"""Steps noted on the way say the same as the engine's own, and what lies between them is no waiting."""

from dataclasses import replace

import pytest

from bench.audit import audit_steps, of_steps_alone
from bench.step_log import NotingExecutor, gaps
from libra.cache.fastlibra import FASTLIBRA
from libra.clock import VirtualClock
from libra.engine.engine import Engine
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.replay import replay
from libra.spec import AdapterSpec
from tests.libra.builders import PROFILE, TINY, adapters, build_engine, request

# Every price that depends on what is in a step.
PRICED = replace(
    PROFILE,
    sequence_s=1e-3,
    context_token_s=1e-5,
    several_s=4e-3,
    chunk_s=2e-3,
    adapter_chunk_s=3e-3,
    prefix_pair_s=1e-4,
    mixed_s=5e-3,
    adapter_mixed_s=7e-3,
    adapter_first_s=11e-3,
    adapter_gather_byte_s=1e-7,
)
# Two that share a prefix, one of another adapter beside them, one of none, and one long after.
REQUESTS = [
    request(0, range(10), range(9)),
    request(1, range(12), range(5), arrival_s=0.05),
    request(2, range(20, 29), range(7), "a1", arrival_s=0.06),
    request(3, range(40, 46), range(3), None, arrival_s=0.07),
    request(4, range(10), range(4), arrival_s=9.0),
]


def noted(engine: Engine) -> NotingExecutor:
    executor = engine.executor = NotingExecutor(engine.executor, engine.clock)
    return executor


def test_a_noted_step_costs_what_the_step_itself_did() -> None:
    engine = build_engine(FASTLIBRA, hbm_blocks=40, profile=PRICED)
    executor = noted(engine)
    replay(engine, REQUESTS)
    steps = audit_steps(executor.steps, PRICED, TINY, adapters(1, 1, 1))
    assert len(steps) == engine.num_steps
    assert [step.expected_s for step in steps] == pytest.approx([step.measured_s for step in steps], rel=1e-9)
    assert {step.has_chunk for step in steps} == {False, True}
    assert max(len(step.parts) for step in executor.steps) >= 3


class Dawdling(Executor):
    """Computes on ``real``; after each step the clock goes on for a while before anybody else is told."""

    def __init__(self, real: Executor, clock: VirtualClock, seconds: float) -> None:
        self._real, self._clock, self._seconds = real, clock, seconds

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        self._clock.advance_to(self._clock.now() + self._seconds)
        return self._real.execute(batch, max_steps, until_s)

    def prefill_seconds(self, num_tokens: int) -> float:
        return self._real.prefill_seconds(num_tokens)

    def add_adapter(self, spec: AdapterSpec) -> None:
        self._real.add_adapter(spec)

    def remove_adapter(self, adapter_id: str) -> None:
        self._real.remove_adapter(adapter_id)

    def describe(self) -> str:
        return self._real.describe()


def test_gaps_are_the_time_between_steps_without_waiting_for_requests() -> None:
    engine = build_engine(FASTLIBRA, hbm_blocks=40)
    executor = noted(engine)
    assert isinstance(engine.clock, VirtualClock)
    engine.executor = Dawdling(executor, engine.clock, 0.25)
    replay(engine, REQUESTS)
    found = list(gaps(executor.steps))
    assert [seconds for _, seconds in found] == pytest.approx([0.25] * len(found))
    # All but the first step, and the one that nothing came before for seconds.
    assert len(found) == len(executor.steps) - 2


def test_what_lies_around_steps_is_no_part_of_them() -> None:
    measured = replace(PRICED, fit={"running": {"around": {"step_overhead_s": 0.004, "chunk_s": 0.5}}})
    alone = of_steps_alone(measured)
    assert alone.step_overhead_s == pytest.approx(PRICED.step_overhead_s - 0.004)
    assert alone.chunk_s == 0.0
    assert of_steps_alone(PRICED) == PRICED
