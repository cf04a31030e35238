"""Drives a TorchExecutor by hand: blocks scattered over a dirty pool, prefill in chunks, decode, one mixed batch."""

from dataclasses import dataclass

import numpy as np
import torch

from libra.clock import WallClock
from libra.engine.arena import Arenas
from libra.engine.executor import PrefillChunk, StepBatch
from libra.engine.sequence import SamplingParams, Sequence
from libra.engine.torch_executor import TorchExecutor
from libra.model.adapter_store import AdapterStore
from libra.model.backend import Backend
from libra.model.llama import load_model
from libra.request import Request
from tests.tiny_models import TinyModel


@dataclass
class Driver:
    """An executor over a pool whose free blocks are handed out in random order."""

    executor: TorchExecutor
    store: AdapterStore
    hbm: torch.Tensor
    block_tokens: int
    vocab_size: int
    free_blocks: list[int]
    adapter_blocks: dict[str, list[int]]

    @staticmethod
    def make(
        tiny: TinyModel,
        block_tokens: int = 16,
        stitch: bool = True,
        dtype: str = "float32",
        prepack: bool = True,
        backend: Backend | None = None,
    ) -> "Driver":
        model = load_model(tiny.directory, dtype, prepack, backend)
        store = AdapterStore(model.spec, block_tokens, model.dtype)
        for path in tiny.adapters.values():
            store.add(path)
        arenas = Arenas(model.spec, block_tokens, hbm_blocks=4096 // block_tokens, host_blocks=0, dtype=model.dtype)
        # A pool in use is never clean: what earlier owners left must not matter.
        arenas.hbm.normal_(generator=torch.Generator().manual_seed(3))
        order = np.random.default_rng(5).permutation(len(arenas.hbm)).tolist()
        executor = TorchExecutor(model, arenas.hbm, store, block_tokens, WallClock(), stitch=stitch)
        driver = Driver(executor, store, arenas.hbm, block_tokens, model.spec.vocab_size, order, {})
        for adapter_id in store:
            driver.load_adapter(adapter_id)
        return driver

    def load_adapter(self, adapter_id: str) -> None:
        """Puts an adapter into fresh blocks."""
        packed = self.store.packed(adapter_id)
        blocks = [self.free_blocks.pop() for _ in packed]
        self.hbm[blocks] = packed
        self.adapter_blocks[adapter_id] = blocks

    def sequence(
        self, prompt: list[int], num_tokens: int, adapter_id: str | None, sampling: SamplingParams | None = None
    ) -> Sequence:
        request = Request(0, 0.0, adapter_id, num_tokens, prompt_token_ids=tuple(prompt))
        tokens = np.zeros(len(prompt) + num_tokens, dtype=np.uint32)
        tokens[: len(prompt)] = prompt
        sequence = Sequence(request, tokens, self.block_tokens, sampling=sampling or SamplingParams())
        sequence.block_table = [self.free_blocks.pop() for _ in range(-(-len(tokens) // self.block_tokens))]
        sequence.adapter_blocks = self.adapter_blocks.get(adapter_id or "", [])
        return sequence

    def step(self, decode: list[Sequence], chunks: list[PrefillChunk]) -> None:
        """One step, and what the engine does after it."""
        batch = StepBatch(decode, chunks)
        yielding = [*decode, *(chunk.sequence for chunk in chunks if chunk.is_last)]
        result = self.executor.execute(batch, 1, float("inf"))
        assert len(result.step_ends) == 1
        for sequence in decode:
            sequence.num_computed += 1
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.num_tokens
        for sequence, token in zip(yielding, result.tokens, strict=True):
            sequence.append(token)

    def run(self, sequences: list[Sequence], chunk_tokens: int) -> list[list[int]]:
        """All outputs. Two prompts at a time are prefilled in chunks while the others decode, as they arrive."""
        while any(s.num_tokens < s.max_tokens for s in sequences):
            decode = [s for s in sequences if s.num_output_tokens > 0 and s.num_tokens < s.max_tokens]
            waiting = [s for s in sequences if s.num_output_tokens == 0][:2]
            chunks = [PrefillChunk(s, min(chunk_tokens, s.num_tokens - s.num_computed)) for s in waiting]
            self.step(decode, chunks)
        return [s.tokens[s.num_prompt_tokens :].tolist() for s in sequences]
