"""How an adapter's weights lie in pool blocks. The one place that defines it.

    unit u = rank_index * num_layers + layer       one rank row of one layer
    unit   = | A row of q | B column of q | A row of k | B column of k | ... |   modules in TARGET_MODULES order
    block  = | unit | unit | ... | unused |        a unit never straddles blocks

A LoRA adds ``B (A x) * scaling`` to a module's output; the scaling is folded into B before packing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from libra.spec import TARGET_MODULES, AdapterSpec, ModelSpec


@dataclass(frozen=True)
class LoraPair:
    """One module's weights over all layers: ``a`` [layers, rank, in features], ``b`` [layers, rank, out features].

    ``b`` is B transposed, with the adapter's scaling folded in.
    """

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True)
class UnitLayout:
    """Sizes in elements. ``offsets[module]`` is where the module's A row starts in a unit; its B column follows."""

    spec: AdapterSpec
    num_layers: int
    unit_elems: int
    units_per_block: int
    block_elems: int
    num_blocks: int
    offsets: dict[str, int]
    shapes: dict[str, tuple[int, int]]

    @staticmethod
    def of(spec: AdapterSpec, model: ModelSpec, block_tokens: int) -> "UnitLayout":
        """Raises LibraError when a unit does not fit a block."""
        num_blocks = spec.num_blocks(model, block_tokens)
        shapes = {module: model.module_shape(module) for module in TARGET_MODULES if module in spec.target_modules}
        offsets, end = {}, 0
        for module, shape in shapes.items():
            offsets[module] = end
            end += sum(shape)
        block_elems = model.block_elems(block_tokens)
        return UnitLayout(spec, model.num_layers, end, block_elems // end, block_elems, num_blocks, offsets, shapes)

    def a_slice(self, module: str) -> slice:
        return slice(self.offsets[module], self.offsets[module] + self.shapes[module][0])

    def b_slice(self, module: str) -> slice:
        start = self.offsets[module] + self.shapes[module][0]
        return slice(start, start + self.shapes[module][1])


def pack(weights: Mapping[str, LoraPair], layout: UnitLayout, dtype: torch.dtype) -> torch.Tensor:
    """The adapter as whole blocks, shape [num_blocks, block_elems]; unused elements are zero."""
    blocks = torch.zeros(layout.num_blocks, layout.block_elems, dtype=dtype)
    num_units = layout.num_blocks * layout.units_per_block
    units = torch.zeros(num_units, layout.unit_elems, dtype=dtype)
    rows = units[: layout.spec.rank * layout.num_layers].view(layout.spec.rank, layout.num_layers, layout.unit_elems)
    for module, pair in weights.items():
        rows[:, :, layout.a_slice(module)] = pair.a.transpose(0, 1)
        rows[:, :, layout.b_slice(module)] = pair.b.transpose(0, 1)
    blocks[:, : layout.units_per_block * layout.unit_elems] = units.view(layout.num_blocks, -1)
    return blocks


def gather_units(arena: torch.Tensor, blocks: torch.Tensor, layout: UnitLayout) -> torch.Tensor:
    """The adapter's units as one contiguous copy, shape [rank, num_layers, unit_elems].

    ``arena`` is [any number of blocks, block_elems], ``blocks`` the int64 ids of the adapter's blocks in order.
    """
    filled = arena[:, : layout.units_per_block * layout.unit_elems].index_select(0, blocks)
    units = filled.view(-1, layout.unit_elems)[: layout.spec.rank * layout.num_layers]
    return units.view(layout.spec.rank, layout.num_layers, layout.unit_elems)
