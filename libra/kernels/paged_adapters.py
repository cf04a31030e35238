"""A step's adapters for the forward pass, read where they lie in the pool."""

from collections.abc import Sequence as Items

import torch

from libra.kernels.lora import LoraBatch, expand, shrink
from libra.model.lora import ActiveAdapters, ModuleGroup


class PagedAdapters(ActiveAdapters):
    """``batch`` over ``arena`` [blocks, block_elems]."""

    def __init__(
        self,
        batch: LoraBatch,
        arena: torch.Tensor,
        num_layers: int,
        groups: Items[ModuleGroup],
        outputs: "PagedAdapters | None" = None,
    ) -> None:
        self.outputs = outputs
        self._batch = batch
        self._arena = arena
        self._num_layers = num_layers
        self._groups = groups
        widest = max(len(group.modules) for group in groups)
        # Launches follow one another on a stream, so all layers and groups share it.
        self._shrunk = batch.new_shrunk(widest, arena.device, arena.dtype)

    def add(self, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        modules = self._groups[group]
        shrink(self._batch, self._arena, self._num_layers, layer, modules, x, self._shrunk)
        expand(self._batch, self._arena, self._num_layers, layer, modules, self._shrunk, out)
