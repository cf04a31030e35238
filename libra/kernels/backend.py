"""The forward pass on Triton kernels, and the choice between that and torch."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import Any

import torch

from libra.errors import unknown
from libra.kernels import BACKENDS
from libra.kernels.activation import silu_mul
from libra.kernels.attention import attend
from libra.kernels.lora import LoraBatch, expand, shrink
from libra.kernels.norm import add_rms_norm
from libra.kernels.rope import rotate_and_write
from libra.kernels.step_plan import StepPlanner
from libra.model.attention import Span
from libra.model.backend import AdapterUse, Backend, Planner, StepPlan, TorchBackend
from libra.model.lora import ActiveAdapters, ModuleGroup, module_groups
from libra.model.packing import UnitLayout
from libra.model.paged_kv import PagedKV
from libra.spec import ModelSpec


def make_backend(name: str) -> Backend:
    """Raises LibraError for a name that is not in BACKENDS."""
    if name == "torch":
        return TorchBackend()
    if name == "triton":
        return TritonBackend()
    raise unknown("backend", name, BACKENDS)


class TritonBackend(Backend):
    """Every operation of a layer but the products with the model's own weights."""

    name = "triton"

    def planner(self, kv: PagedKV, model: ModelSpec, layouts: Mapping[str, UnitLayout]) -> Planner:
        return _TritonPlanner(kv, model, layouts)

    def add_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        return add_rms_norm(hidden, delta, weight, epsilon)

    def attend(
        self, plan: Any, kv: PagedKV, layer: int, heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor
    ) -> torch.Tensor:
        queries = rotate_and_write(heads, cos, signed_sin, kv, layer, plan.key_rows)
        output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
        for launch in plan.launches:
            attend(queries, kv, layer, launch.tiles, plan.tables, launch.config, output)
        return output.flatten(1)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        return silu_mul(gate_up)


class PagedAdapters(ActiveAdapters):
    """One step's adapters, read where they lie in the pool."""

    def __init__(self, batch: LoraBatch, arena: torch.Tensor, num_layers: int, groups: Items[ModuleGroup]) -> None:
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


class _TritonPlanner(Planner):
    reads_adapters = True

    def __init__(self, kv: PagedKV, model: ModelSpec, layouts: Mapping[str, UnitLayout]) -> None:
        self._planner = StepPlanner(kv, model, layouts)
        self._arena = kv.rows.view(-1, model.block_elems(kv.block_tokens))
        self._num_layers = model.num_layers
        self._groups = module_groups(model)

    def plan(self, decode: Items[Span], prefill: Items[Span], use: AdapterUse | None) -> StepPlan:
        step = self._planner.plan(decode, prefill, use)
        adapters = None
        if step.lora is not None:
            adapters = PagedAdapters(step.lora, self._arena, self._num_layers, self._groups)
        return StepPlan(step, adapters)
