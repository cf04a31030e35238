"""What the engine spends on a step beside computing it."""

from bench.profiling.samples import Samples
from libra.cache.fastlibra import FASTLIBRA
from libra.clock import Clock, WallClock
from libra.engine.build import CacheSizes, build_manager
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.link import Copier, Transfer
from libra.engine.thread_link import ThreadLink
from libra.request import Request
from libra.spec import AdapterSpec, ModelSpec

LOOP_SEQUENCES = (1, 4, 16)
_PROMPT_TOKENS, _LOOP_STEPS = 8, 16


def loop_samples() -> list[Samples]:
    return [Samples(count) for count in LOOP_SEQUENCES]


def loop_seconds(computing: Executor, model: ModelSpec, block_tokens: int, num_sequences: int) -> float:
    """Scheduling, cache and bookkeeping of a decode step over ``num_sequences``.

    ``computing`` computes the steps, which do not count, in its pool's first blocks: a processor that has just done so
    has forgotten the engine's code and data, and the loop takes ten times as long as without.
    """
    config, clock = EngineConfig(block_tokens=block_tokens), WallClock()
    blocks = num_sequences * -(-(_PROMPT_TOKENS + _LOOP_STEPS) // block_tokens)
    link = ThreadLink(_NoCopies(), clock)
    executor = _TimedExecutor(computing, clock)
    manager = build_manager(FASTLIBRA, model, [], CacheSizes(blocks, blocks), config, clock, link, executor)
    engine = Engine(config, clock, executor, manager, model.vocab_size)
    try:
        for number in range(num_sequences):
            prompt = tuple(range(number, number + _PROMPT_TOKENS))
            engine.submit(Request(number, 0.0, None, _LOOP_STEPS, prompt_token_ids=prompt))
        engine.step()
        started_s, first, executor.seconds = clock.now(), engine.num_steps, 0.0
        while engine.scheduler.has_work:
            engine.step()
        return (clock.now() - started_s - executor.seconds) / (engine.num_steps - first)
    finally:
        link.close()


class _TimedExecutor(Executor):
    """Computes on ``real`` and adds up the ``seconds`` that it takes."""

    def __init__(self, real: Executor, clock: Clock) -> None:
        self.seconds = 0.0
        self._real = real
        self._clock = clock

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        started_s = self._clock.now()
        result = self._real.execute(batch, 1, until_s)
        # Its own clock is another one.
        ended_s = self._clock.now()
        self.seconds += ended_s - started_s
        return result._replace(step_ends=[ended_s])

    def prefill_seconds(self, num_tokens: int) -> float:
        return self._real.prefill_seconds(num_tokens)

    def add_adapter(self, spec: AdapterSpec) -> None:
        self._real.add_adapter(spec)

    def remove_adapter(self, adapter_id: str) -> None:
        self._real.remove_adapter(adapter_id)

    def describe(self) -> str:
        return self._real.describe()


class _NoCopies(Copier):
    def copy(self, transfer: Transfer) -> None:
        raise RuntimeError("nothing is to be copied in a cache that holds everything")
