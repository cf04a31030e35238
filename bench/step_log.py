"""What the steps of a running engine were made of and how long they took, noted on the way and looked at afterwards."""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bench.wrapped_executor import WrappedExecutor
from libra.clock import Clock
from libra.engine.executor import Executor, PrefillChunk, StepBatch, StepResult
from libra.engine.sequence import Sequence
from libra.request import Request


class NotedPart(NamedTuple):
    """One sequence's part of a step: a chunk of ``chunk_tokens`` tokens, or 0 for a token that it decoded."""

    request: int
    adapter: str | None
    generation: int
    num_tokens: int
    num_computed: int
    chunk_tokens: int


class NotedStep(NamedTuple):
    """A step by its sequences, decoding ones first, and when it began and ended, in seconds."""

    parts: tuple[NotedPart, ...]
    started_s: float
    ended_s: float

    @property
    def seconds(self) -> float:
        return self.ended_s - self.started_s

    @property
    def num_chunks(self) -> int:
        return sum(part.chunk_tokens > 0 for part in self.parts)

    def batch(self) -> StepBatch:
        """What an executor needs to know to say what the step costs."""
        batch = StepBatch()
        for part in self.parts:
            sequence = Sequence(Request(part.request, 0.0, part.adapter, 1), np.zeros(0, dtype=np.uint32), 1)
            sequence.num_tokens, sequence.num_computed = part.num_tokens, part.num_computed
            sequence.adapter_generation = part.generation
            if part.chunk_tokens:
                batch.prefill.append(PrefillChunk(sequence, part.chunk_tokens))
            else:
                batch.decode.append(sequence)
        return batch

    def continues(self, before: "NotedStep") -> bool:
        """Whether the engine had work all the time since ``before``: a sequence is in both."""
        return not {part.request for part in before.parts}.isdisjoint(part.request for part in self.parts)


def gaps(steps: Items[NotedStep]) -> Iterator[tuple[NotedStep, float]]:
    """Every step but those that the engine waited for, and the seconds since the one before it."""
    for before, step in pairwise(steps):
        if step.continues(before):
            yield step, step.started_s - before.ended_s


class NotingExecutor(WrappedExecutor):
    """Computes on ``real`` and notes each step in ``steps``, by ``clock``. Noting is a part of what lies between
    steps, so it does as little as it can."""

    def __init__(self, real: Executor, clock: Clock) -> None:
        super().__init__(real)
        self.steps: list[NotedStep] = []
        self._clock = clock

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        """One step, whatever ``max_steps``. It ends by this executor's clock."""
        parts = [_part(sequence, 0) for sequence in batch.decode]
        parts += [_part(chunk.sequence, chunk.num_tokens) for chunk in batch.prefill]
        started_s = self._clock.now()
        result = super().execute(batch, 1, until_s)
        ended_s = self._clock.now()
        self.steps.append(NotedStep(tuple(parts), started_s, ended_s))
        return result._replace(step_ends=[ended_s])


def _part(sequence: Sequence, chunk_tokens: int) -> NotedPart:
    request = sequence.request
    return NotedPart(
        request.id,
        request.adapter,
        sequence.adapter_generation,
        sequence.num_tokens,
        sequence.num_computed,
        chunk_tokens,
    )
