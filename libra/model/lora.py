"""Adapters of a mixed batch: the contract the forward pass sees, and its plain form."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence as Items
from typing import NamedTuple

import torch
import torch.nn.functional as F

from libra.model.packing import UnitLayout
from libra.spec import ModelSpec

QKV, OUTPUT, GATE_UP, DOWN = range(4)
_GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
_NARROWEST_PIECE, _WIDEST_PIECE = 64, 448


class ModuleGroup(NamedTuple):
    """Modules that read the same input, their outputs side by side; computed together.

    The outputs are cut into *pieces* of one width, ``pieces[i]`` of them for ``modules[i]``: with grouped-query
    attention the queries are several times as wide as keys and values. See ``_piece_width``.
    """

    modules: tuple[str, ...]
    pieces: tuple[int, ...]
    fan_in: int
    piece_width: int

    @property
    def num_pieces(self) -> int:
        return sum(self.pieces)

    def pieces_of(self, index: int) -> slice:
        """The pieces of ``modules[index]``."""
        first = sum(self.pieces[:index])
        return slice(first, first + self.pieces[index])

    def columns(self, index: int) -> slice:
        """Where the output of ``modules[index]`` lies."""
        pieces = self.pieces_of(index)
        return slice(pieces.start * self.piece_width, pieces.stop * self.piece_width)


def module_groups(model: ModelSpec) -> tuple[ModuleGroup, ...]:
    """The groups of a model's layer, indexed by QKV, OUTPUT, GATE_UP and DOWN."""
    groups = []
    for modules in _GROUPS:
        widths = [model.module_shape(module)[1] for module in modules]
        width = _piece_width(math.gcd(*widths))
        pieces = tuple(total // width for total in widths)
        groups.append(ModuleGroup(modules, pieces, model.module_shape(modules[0])[0], width))
    return tuple(groups)


def _piece_width(width: int) -> int:
    """The widest divisor of ``width`` that an embedding bag sums up in registers, of which there are 32 of 16 floats:
    it reads wider rows in several passes, a third more slowly. ``width`` itself where all divisors are small."""
    fitting = [divisor for divisor in range(_NARROWEST_PIECE, _WIDEST_PIECE + 1) if width % divisor == 0]
    return width if width <= _WIDEST_PIECE else max(fitting, default=width)


class Segment(NamedTuple):
    """Consecutive tokens of a step that use the same adapter, None for the base model."""

    start: int
    end: int
    adapter_id: str | None


class ActiveAdapters(ABC):
    """The adapters of one step.

    ``outputs``: the same adapters over the step's output rows alone, one after another, which are all that the last
    layer computes; None where none of those has an adapter, or where every token is one of them.
    """

    outputs: "ActiveAdapters | None" = None

    @abstractmethod
    def add(self, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        """``out[t] += scaling * B A x[t]`` for every token with an adapter that targets the group's modules.

        ``x`` [tokens, in features], ``out`` [tokens, all out features of the group]. Mutates ``out``.
        """


class GatheredAdapters(ActiveAdapters):
    """The plain form: weights gathered from the pool for this step alone, one product per segment and module."""

    def __init__(
        self,
        groups: tuple[ModuleGroup, ...],
        segments: Items[Segment],
        units: dict[str, torch.Tensor],
        layouts: dict[str, UnitLayout],
        outputs: Items[Segment] = (),
    ) -> None:
        """``units[adapter_id]`` as from ``gather_units``; ``outputs`` are the segments of the output rows."""
        self.outputs = GatheredAdapters(groups, outputs, units, layouts) if outputs else None
        self._groups = groups
        self._segments = [segment for segment in segments if segment.adapter_id is not None]
        self._units = units
        self._layouts = layouts

    def add(self, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        for start, end, adapter_id in self._segments:
            assert adapter_id is not None
            layout, weights = self._layouts[adapter_id], self._units[adapter_id][:, layer]
            for index, module in enumerate(self._groups[group].modules):
                if module in layout.offsets:
                    shrunk = F.linear(x[start:end], weights[:, layout.a_slice(module)])
                    columns = self._groups[group].columns(index)
                    out[start:end, columns].addmm_(shrunk, weights[:, layout.b_slice(module)])
