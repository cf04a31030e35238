"""A pool nearly full of NaN, with adapters and sequences in scattered blocks: a stray read or an unwritten element
shows."""

from dataclasses import dataclass, field

import numpy as np
import torch

from libra.model.packing import LoraPair, UnitLayout, pack
from libra.model.paged_kv import PagedKV
from libra.spec import TARGET_MODULES, AdapterSpec, ModelSpec

# Nothing is a power of two that need not be: 3 query heads per key-value head, an odd layer count.
SPEC = ModelSpec("kernels", 3, 48, 6, 2, 16, 80, 100, dtype_bytes=4)
BLOCK_TOKENS = 10
QUERY_VALUE = ("q_proj", "v_proj")


@dataclass
class Pool:
    """``weights[adapter]`` are the weights in ``blocks[adapter]``, rounded to the dtype."""

    spec: ModelSpec
    block_tokens: int
    dtype: torch.dtype
    device: str
    arena: torch.Tensor
    free: list[int]
    generator: torch.Generator
    layouts: dict[str, UnitLayout] = field(default_factory=dict)
    blocks: dict[str, list[int]] = field(default_factory=dict)
    weights: dict[str, dict[str, LoraPair]] = field(default_factory=dict)

    @staticmethod
    def make(
        dtype: torch.dtype,
        device: str,
        num_blocks: int,
        spec: ModelSpec = SPEC,
        block_tokens: int = BLOCK_TOKENS,
    ) -> "Pool":
        """An empty pool. It hands out its blocks in random order, down to the last."""
        arena = torch.full((num_blocks, spec.block_elems(block_tokens)), float("nan"), dtype=dtype, device=device)
        free = np.random.default_rng(5).permutation(num_blocks).tolist()
        return Pool(spec, block_tokens, dtype, device, arena, free, torch.Generator().manual_seed(9))

    @property
    def kv(self) -> PagedKV:
        return PagedKV(self.arena, self.spec, self.block_tokens)

    def random(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=self.generator) * scale).to(self.dtype).to(self.device)

    def take(self, count: int) -> list[int]:
        return [self.free.pop() for _ in range(count)]

    def add_adapter(self, name: str, rank: int, targets: tuple[str, ...] = TARGET_MODULES) -> None:
        """Random weights of the size of trained ones; what the blocks do not use stays NaN."""
        layout = UnitLayout.of(AdapterSpec(name, rank, targets), self.spec, self.block_tokens)
        weights, everywhere = {}, {}
        for module in layout.offsets:
            fan_in, fan_out = self.spec.module_shape(module)
            a = self.random(self.spec.num_layers, rank, fan_in, scale=fan_in**-0.5).cpu()
            b = self.random(self.spec.num_layers, rank, fan_out, scale=rank**-0.5).cpu()
            weights[module] = LoraPair(a, b)
            everywhere[module] = LoraPair(torch.ones_like(a), torch.ones_like(b))
        packed = pack(weights, layout, self.dtype)
        packed[pack(everywhere, layout, self.dtype) == 0] = float("nan")
        self.layouts[name], self.weights[name] = layout, weights
        self.blocks[name] = self.take(layout.num_blocks)
        self.arena[self.blocks[name]] = packed.to(self.device)

    def int32(self, values: object) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int32).to(self.device)
