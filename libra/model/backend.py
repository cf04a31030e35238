"""The seam between the forward pass and what computes its parts: torch here, Triton kernels in libra.kernels.

Products with the model's own weights are torch's in every backend (libra.model.linear).
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from collections.abc import Sequence as Items
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from libra.model.attention import Span, attend, plan_attention
from libra.model.lora import ActiveAdapters, Segment
from libra.model.packing import UnitLayout
from libra.model.paged_kv import PagedKV
from libra.model.rope import rotate
from libra.spec import ModelSpec


class AdapterUse(NamedTuple):
    """The adapters of a step: ``segments`` cover its tokens, ``outputs`` its output rows alone, one after another;
    ``blocks`` are each used adapter's, in order."""

    segments: Items[Segment]
    outputs: Items[Segment]
    blocks: Mapping[str, Items[int]]


class StepPlan(NamedTuple):
    """What a backend prepared for one step: ``attention`` for its own ``attend``, and the adapters."""

    attention: Any
    adapters: ActiveAdapters | None


class Planner(ABC):
    """Prepares steps over one pool. ``reads_adapters``: it makes the step's adapters itself, straight from the pool;
    otherwise whoever plans brings them in a form of its own (libra.model.stitched, libra.model.lora)."""

    reads_adapters: bool

    @abstractmethod
    def plan(self, decode: Items[Span], prefill: Items[Span], use: AdapterUse | None) -> StepPlan:
        """A step whose tokens are those of ``decode``, one each, then those of ``prefill``, in order. The plan is valid
        until the next one is made. ``use`` None: no token has an adapter, or they are not this planner's to read."""

    def decode_slots(self, capacity: int, max_length: int) -> "DecodeSlots | None":
        """Memory for decode steps of up to ``capacity`` sequences of up to ``max_length`` tokens; None where the
        backend's steps cannot be replayed."""
        return None


class DecodeSlots(ABC):
    """A decode step whose indices stay where they are in the device's memory, so that what computes it can be captured
    once and replayed for other sequences. Rows that no sequence takes are padding: they are computed, and change
    nothing but the logits of their own rows.

    Steps differ in *form* where different kernels or launches compute them. ``tokens``, ``positions`` int32 [capacity].
    """

    capacity: int
    tokens: torch.Tensor
    positions: torch.Tensor

    @abstractmethod
    def forms(self) -> Items[Hashable]:
        """Every form that a step can take."""

    @abstractmethod
    def fill(self, tokens: npt.NDArray[np.int32], spans: Items[Span], use: AdapterUse | None) -> Hashable:
        """Puts a step of at most ``capacity`` spans of one token in place, behind what is computed on it now; returns
        its form. Mutates nothing but the slots."""

    @abstractmethod
    def plan(self, form: Hashable) -> StepPlan:
        """The plan of that form over this memory, the same at every call: valid whatever is filled in."""


class Backend(ABC):
    """The operations of a layer, stateless. Tensors are on one device and of the model's dtype."""

    name: str

    @abstractmethod
    def planner(self, kv: PagedKV, model: ModelSpec, layouts: Mapping[str, UnitLayout]) -> Planner:
        """Raises LibraError when the backend cannot run on this pool or model."""

    @abstractmethod
    def add_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """``hidden += delta``, then its RMSNorm times ``weight``, a new [tokens, hidden size]. Mutates ``hidden``."""

    @abstractmethod
    def attend(
        self, plan: Any, kv: PagedKV, layer: int, heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor
    ) -> torch.Tensor:
        """Rotates queries and keys, writes the step's KV to the pool, and attends to all that each token may see.

        ``heads`` [tokens, heads + 2 * kv_heads, head_dim]: queries, keys, values; ``plan`` a ``StepPlan``'s
        ``attention``; rotations as from libra.model.rope. Returns [tokens, heads * head_dim]. Mutates HBM at the step's
        positions, and possibly ``heads``.
        """

    @abstractmethod
    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up for ``gate_up`` [tokens, 2 * intermediate size], a new [tokens, intermediate size]."""


class TorchBackend(Backend):
    """Plain torch, on any device."""

    name = "torch"

    def planner(self, kv: PagedKV, model: ModelSpec, layouts: Mapping[str, UnitLayout]) -> Planner:
        return _TorchPlanner(kv)

    def add_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """The mean of squares is taken in float32, the weight applied in the model's dtype, as transformers does."""
        if delta is not None:
            hidden += delta
        normed = F.rms_norm(hidden.float(), (hidden.shape[-1],), eps=epsilon)
        return normed.to(hidden.dtype).mul_(weight)

    def attend(
        self, plan: Any, kv: PagedKV, layer: int, heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor
    ) -> torch.Tensor:
        num_kv_heads = kv.width // heads.shape[2]
        num_rotated = heads.shape[1] - num_kv_heads
        rotated = rotate(heads[:, :num_rotated], cos, signed_sin)
        num_heads = num_rotated - num_kv_heads
        return attend(plan, kv, layer, rotated[:, :num_heads], rotated[:, num_heads:], heads[:, num_rotated:])

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up


class _TorchPlanner(Planner):
    reads_adapters = False

    def __init__(self, kv: PagedKV) -> None:
        self._kv = kv

    def plan(self, decode: Items[Span], prefill: Items[Span], use: AdapterUse | None) -> StepPlan:
        plan = plan_attention(self._kv, decode, prefill, self._kv.rows.dtype)
        return StepPlan(_on_device(plan, self._kv.rows.device), None)


def _on_device(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor in it on ``device``: itself, if that is the CPU, where it was made."""
    if device.type == "cpu":
        return value
    if isinstance(value, torch.Tensor):
        return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _on_device(getattr(value, field.name), device) for field in fields(value)})
    if isinstance(value, tuple):
        moved = [_on_device(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
    return value
