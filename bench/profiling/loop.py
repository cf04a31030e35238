"""What the engine spends on a step beside computing it."""

import time

from bench.profiling.samples import Samples
from libra.cache.fastlibra import FASTLIBRA
from libra.clock import WallClock
from libra.engine.build import CacheSizes, build_manager
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.link import Copier, Transfer
from libra.engine.thread_link import ThreadLink
from libra.request import Request
from libra.spec import AdapterSpec, ModelSpec

LOOP_SEQUENCES = (1, 4, 16)
_PROMPT_TOKENS = 8
_LOOP_STEPS = 100


def loop_samples() -> list[Samples]:
    return [Samples(count) for count in LOOP_SEQUENCES]


def loop_seconds(model: ModelSpec, num_sequences: int) -> float:
    """Scheduling, cache and bookkeeping of a decode step over ``num_sequences``, on an engine that computes nothing."""
    config, clock = EngineConfig(), WallClock()
    blocks = num_sequences * (2 + (_PROMPT_TOKENS + _LOOP_STEPS) // config.block_tokens)
    link = ThreadLink(_NoCopies(), clock)
    executor = _NoSteps(clock)
    manager = build_manager(FASTLIBRA, model, [], CacheSizes(blocks, blocks), config, clock, link, executor)
    engine = Engine(config, clock, executor, manager, model.vocab_size)
    try:
        for number in range(num_sequences):
            prompt = tuple(range(number, number + _PROMPT_TOKENS))
            engine.submit(Request(number, 0.0, None, _LOOP_STEPS, prompt_token_ids=prompt))
        engine.step()
        started_s, first = time.perf_counter(), engine.num_steps
        while engine.scheduler.has_work:
            engine.step()
        return (time.perf_counter() - started_s) / (engine.num_steps - first)
    finally:
        link.close()


class _NoSteps(Executor):
    """Says that every step is done as soon as it is asked for."""

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        last = sum(chunk.is_last for chunk in batch.prefill)
        return StepResult([self._clock.now()], [0] * (len(batch.decode) + last))

    def prefill_seconds(self, num_tokens: int) -> float:
        return 0.0

    def add_adapter(self, spec: AdapterSpec) -> None:
        """Needs to know none."""

    def remove_adapter(self, adapter_id: str) -> None:
        """Needs to know none."""

    def describe(self) -> str:
        return "computed nowhere"


class _NoCopies(Copier):
    def copy(self, transfer: Transfer) -> None:
        raise RuntimeError("nothing is to be copied in a cache that holds everything")
