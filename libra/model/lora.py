"""Adapters of a mixed batch: the contract the forward pass sees, and its plain form.

Modules that read the same input and have outputs of the same width form a *group* and are computed together. The
outputs of a group's modules lie side by side.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence as Items
from typing import NamedTuple

import torch
import torch.nn.functional as F

from libra.model.packing import UnitLayout

QUERY, KEY_VALUE, OUTPUT, GATE_UP, DOWN = range(5)
GROUPS = (("q_proj",), ("k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


class Segment(NamedTuple):
    """Consecutive tokens of a step that use the same adapter, None for the base model."""

    start: int
    end: int
    adapter_id: str | None


class ActiveAdapters(ABC):
    """The adapters of one step."""

    @abstractmethod
    def add(self, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        """``out[t] += scaling * B A x[t]`` for every token with an adapter that targets the group's modules.

        ``x`` [tokens, in features], ``out`` [tokens, modules * out features] side by side. Mutates ``out``.
        """


class GatheredAdapters(ActiveAdapters):
    """The plain form: weights gathered from the pool for this step alone, one product per segment and module."""

    def __init__(
        self, segments: Items[Segment], units: dict[str, torch.Tensor], layouts: dict[str, UnitLayout]
    ) -> None:
        """``units[adapter_id]`` as from ``gather_units``."""
        self._segments = [s for s in segments if s.adapter_id is not None]
        self._units = units
        self._layouts = layouts

    def add(self, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        width = out.shape[1] // len(GROUPS[group])
        for start, end, adapter_id in self._segments:
            assert adapter_id is not None
            layout, weights = self._layouts[adapter_id], self._units[adapter_id][:, layer]
            for index, module in enumerate(GROUPS[group]):
                if module in layout.offsets:
                    shrunk = F.linear(x[start:end], weights[:, layout.a_slice(module)])
                    columns = slice(index * width, (index + 1) * width)
                    out[start:end, columns].addmm_(shrunk, weights[:, layout.b_slice(module)])
