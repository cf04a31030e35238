"""A pool of random weights and KV, with adapters and sequences in scattered blocks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from bench.gpu.case import Scale
from libra.kernels.lora import LoraBatch
from libra.kernels.lora_plan import LoraConfig, LoraLayouts
from libra.model.lora import Segment
from libra.model.packing import UnitLayout
from libra.model.paged_kv import PagedKV
from libra.model.tiny import TINY_SIZES
from libra.spec import MODELS, AdapterSpec, ModelSpec


@dataclass
class World:
    """Whatever lies in a block is the weights or the KV of who has it: all of it is random."""

    spec: ModelSpec
    block_tokens: int
    arena: torch.Tensor
    _free: Iterator[int]

    @staticmethod
    def make(scale: Scale, num_blocks: int, dtype: torch.dtype, device: torch.device) -> "World":
        spec = model_of(scale)
        generator = torch.Generator(device).manual_seed(0)
        shape = (num_blocks, spec.block_elems(scale.block_tokens))
        # Of the size of weights: sums over a few thousand of them stay near one.
        arena = torch.empty(shape, dtype=dtype, device=device).normal_(std=0.05, generator=generator)
        free = iter(np.random.default_rng(0).permutation(num_blocks).tolist())
        return World(spec, scale.block_tokens, arena, free)

    @property
    def kv(self) -> PagedKV:
        return PagedKV(self.arena, self.spec, self.block_tokens)

    def take(self, count: int) -> list[int]:
        return [next(self._free) for _ in range(count)]

    def random(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.arena.dtype, device=self.arena.device).normal_()

    def int32(self, values: object) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int32).to(self.arena.device)

    def lora_batch(self, batch: int, adapters: int, rank: int, config: LoraConfig) -> LoraBatch:
        """``batch`` tokens, neighbours of different adapters."""
        names = [f"a{index}" for index in range(adapters)]
        layouts = {name: UnitLayout.of(AdapterSpec(name, rank), self.spec, self.block_tokens) for name in names}
        blocks = {name: self.take(layout.num_blocks) for name, layout in layouts.items()}
        segments = [Segment(token, token + 1, names[token % adapters]) for token in range(batch)]
        plan = LoraLayouts(layouts, self.arena.element_size()).plan(segments, blocks, config)
        assert plan is not None
        tiles, rows, records, tables = map(self.int32, (plan.tiles, plan.rows, plan.records, plan.tables))
        return LoraBatch(tiles, rows, records, tables, plan.max_rank, plan.alignment, plan.config)


def model_of(scale: Scale) -> ModelSpec:
    """The shapes of ``scale.model`` with its number of layers."""
    models = MODELS if scale.model in MODELS else TINY_SIZES
    return replace(models[scale.model], num_layers=scale.num_layers)
