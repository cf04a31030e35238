"""The whole engine on the executor that is measured: what its steps take amid all that an engine does beside them."""

import math
import random
from collections.abc import Sequence

from bench.step_log import NotedStep, NotingExecutor
from libra.cache.fastlibra import FASTLIBRA
from libra.clock import WallClock
from libra.engine.build import CacheSizes, build_manager
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.executor import Executor
from libra.engine.link import Copier
from libra.engine.replay import replay
from libra.engine.step_demand import StepCounter, StepDemand
from libra.engine.thread_link import ThreadLink
from libra.request import Request, Segment
from libra.spec import AdapterSpec, ModelSpec

# A burst: so many requests, their mean distance, and the lengths of their prompts and answers. Answers are so long that
# most steps have the sequences of the one before, as in any engine.
_REQUESTS, _SPACING_S, _PROMPTS, _ANSWERS = 8, 0.15, (16, 1024), (8, 128)


class RunningEngine:
    """Serves bursts of requests, one a round, and notes its steps.

    Points alone say what a step costs when it is repeated. Between the steps of an engine lie scheduling, cache and
    bookkeeping, which leave nothing of the step in the processor's caches, nor the step of them; no two prompts have
    one length, so that products are compiled anew; and adapters are read meanwhile. Its cache fills up in a few rounds.
    """

    def __init__(
        self,
        computing: Executor,
        copier: Copier,
        model: ModelSpec,
        adapters: Sequence[AdapterSpec],
        sizes: CacheSizes,
        block_tokens: int,
        max_length: int,
    ) -> None:
        """``computing`` and ``copier`` work on a pool of ``sizes``, whose blocks may hold anything and are anybody's
        between rounds. Starts the link's threads, which end with the block."""
        config, clock = EngineConfig(block_tokens=block_tokens), WallClock()
        self._link = ThreadLink(copier, clock)
        self._executor = NotingExecutor(computing, clock)
        manager = build_manager(FASTLIBRA, model, list(adapters), sizes, config, clock, self._link, self._executor)
        self._engine = Engine(config, clock, self._executor, manager, model.vocab_size)
        # One of the base model among them.
        self._names = [*(spec.adapter_id for spec in adapters), None]
        self._longest_answer = min(_ANSWERS[1], max_length // 2)
        self._longest_prompt = min(_PROMPTS[1], max_length - self._longest_answer)
        self._generator = random.Random(0)
        self._num_requests = self._num_warm = 0

    def __enter__(self) -> "RunningEngine":
        return self

    def __exit__(self, *exception: object) -> None:
        self._link.close()

    def serve(self, counts: bool) -> None:
        """A burst, from its first request's arrival to its last one's last token."""
        self._engine.records.clear()
        replay(self._engine, self._burst())
        if not counts:
            self._num_warm = len(self._executor.steps)

    def _burst(self) -> list[Request]:
        arrival_s, draw = self._engine.clock.now(), self._generator
        requests = []
        for number in range(self._num_requests, self._num_requests + _REQUESTS):
            prompt = _length(draw, _PROMPTS[0], self._longest_prompt)
            answer = _length(draw, _ANSWERS[0], self._longest_answer)
            text = Segment(f"prompt {number}", 0, prompt)
            requests.append(Request(number, arrival_s, draw.choice(self._names), answer, (text,)))
            arrival_s += draw.expovariate(1 / _SPACING_S)
        self._num_requests += _REQUESTS
        return requests

    @property
    def steps(self) -> list[NotedStep]:
        """Those of the rounds that count."""
        return self._executor.steps[self._num_warm :]

    def demands(self, counter: StepCounter) -> dict[NotedStep, StepDemand]:
        """What each step asked for, those of the first round as well: an adapter may have been used there first."""
        used: dict[str | None, int] = {}
        demands = {}
        for step in self._executor.steps:
            fresh = {part.adapter for part in step.parts if used.get(part.adapter) != part.generation}
            used |= {part.adapter: part.generation for part in step.parts}
            demands[step] = counter.demand(step.batch(), [name for name in fresh if name is not None])
        return demands


def _length(draw: random.Random, least: int, most: int) -> int:
    """Short ones as often as long ones, by orders of magnitude."""
    return round(math.exp(draw.uniform(math.log(min(least, most)), math.log(most))))
