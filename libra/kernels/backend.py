"""The forward pass on Triton kernels, and the choice between that and torch."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import Any

import torch

from libra.errors import unknown
from libra.kernels import BACKENDS
from libra.kernels.activation import silu_mul
from libra.kernels.attention import attend
from libra.kernels.decode_slots import TritonSlots
from libra.kernels.lora import LoraBatch
from libra.kernels.norm import add_rms_norm
from libra.kernels.paged_adapters import PagedAdapters
from libra.kernels.rope import rotate_and_write
from libra.kernels.step_plan import StepPlanner
from libra.model.attention import Span
from libra.model.backend import AdapterUse, Backend, DecodeSlots, Planner, StepPlan, TorchBackend
from libra.model.lora import module_groups
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
            tokens = slice(launch.num_tokens)
            attend(queries[tokens], kv, layer, launch.tiles, plan.tables, launch.config, output[tokens])
        return output.flatten(1)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        return silu_mul(gate_up)


class _TritonPlanner(Planner):
    reads_adapters = True

    def __init__(self, kv: PagedKV, model: ModelSpec, layouts: Mapping[str, UnitLayout]) -> None:
        self._planner = StepPlanner(kv, model, layouts)
        self._kv = kv
        self._model = model
        self._arena = kv.rows.view(-1, model.block_elems(kv.block_tokens))
        self._groups = module_groups(model)

    def plan(self, decode: Items[Span], prefill: Items[Span], use: AdapterUse | None) -> StepPlan:
        step = self._planner.plan(decode, prefill, use)
        return StepPlan(step, self._adapters(step.lora, self._adapters(step.output_lora)))

    def _adapters(self, batch: LoraBatch | None, outputs: PagedAdapters | None = None) -> PagedAdapters | None:
        if batch is None:
            return None
        return PagedAdapters(batch, self._arena, self._model.num_layers, self._groups, outputs)

    def decode_slots(self, capacity: int, max_length: int) -> DecodeSlots:
        return TritonSlots(self._kv, self._model, self._planner.layouts, capacity, max_length)
