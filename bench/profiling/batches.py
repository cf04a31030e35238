"""A step to measure as the batch that an executor takes."""

import itertools
from collections.abc import Mapping

import numpy as np

from bench.profiling.points import StepPoint
from libra.engine.executor import PrefillChunk, StepBatch
from libra.engine.sequence import Sequence
from libra.request import Request
from libra.spec import TARGET_MODULES, AdapterSpec, ModelSpec


def adapter_name(number: int, rank: int) -> str:
    return f"rank {rank}, {number}"


def adapters_of(points: list[StepPoint]) -> list[AdapterSpec]:
    """Every adapter that some point uses. They target all modules: each further one costs calls of its own."""
    used = sorted({(number, rank) for point in points for number, rank in point.ranks.items()})
    return [AdapterSpec(adapter_name(number, rank), rank, TARGET_MODULES) for number, rank in used]


def load_anew(batch: StepBatch) -> None:
    """Makes the adapters of ``batch`` other ones than those that were used last."""
    for sequence in (*batch.decode, *(chunk.sequence for chunk in batch.prefill)):
        sequence.adapter_generation += 1


class BatchMaker:
    """Batches over a pool whose blocks hold anything: what a step takes does not depend on it.

    Adapters have blocks of their own, sequences take theirs from the start of the rest in every batch.
    """

    def __init__(self, model: ModelSpec, block_tokens: int, points: list[StepPoint]) -> None:
        self._block_tokens = block_tokens
        free = itertools.count()
        self.adapters = adapters_of(points)
        self._blocks: Mapping[str, list[int]] = {
            spec.adapter_id: list(itertools.islice(free, spec.num_blocks(model, block_tokens)))
            for spec in self.adapters
        }
        self._first_free = next(free)
        self.num_blocks = self._first_free + max(map(self._sequence_blocks, points))

    def make(self, point: StepPoint) -> StepBatch:
        """The batch of ``point``; it can be computed again and again."""
        blocks = itertools.count(self._first_free)
        batch = StepBatch()
        for part in point.decode:
            sequence = self._sequence(part.context, part.context, part.adapter, part.rank, blocks)
            sequence.append(0)
            batch.decode.append(sequence)
        for chunk in point.prefill:
            prompt = chunk.prefix + chunk.tokens
            sequence = self._sequence(prompt, chunk.prefix, chunk.adapter, chunk.rank, blocks)
            batch.prefill.append(PrefillChunk(sequence, chunk.tokens))
        return batch

    def _sequence(
        self, prompt: int, computed: int, adapter: int | None, rank: int, blocks: "itertools.count[int]"
    ) -> Sequence:
        """A sequence of ``prompt`` tokens, ``computed`` of them behind it, with room for one more."""
        name = None if adapter is None else adapter_name(adapter, rank)
        request = Request(0, 0.0, name, 1, prompt_token_ids=(0,) * prompt)
        sequence = Sequence(request, np.zeros(prompt + 1, dtype=np.uint32), self._block_tokens)
        sequence.num_computed = computed
        sequence.block_table = list(itertools.islice(blocks, self._num_blocks(max(prompt, computed + 1))))
        sequence.adapter_blocks = self._blocks[name] if name is not None else []
        return sequence

    def _num_blocks(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens)

    def _sequence_blocks(self, point: StepPoint) -> int:
        decode = sum(self._num_blocks(part.context + 1) for part in point.decode)
        return decode + sum(self._num_blocks(part.prefix + part.tokens) for part in point.prefill)
