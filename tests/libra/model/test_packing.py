"""Adapters in blocks."""

import pytest
import torch

from libra.model.adapter import read_adapter
from libra.model.adapter_store import load_weights
from libra.model.packing import UnitLayout, gather_units, pack
from tests.tiny_models import SPEC, TinyModel


@pytest.mark.parametrize("block_tokens", [7, 16, 33])
def test_what_is_packed_is_gathered_again(tiny_model: TinyModel, block_tokens: int) -> None:
    for directory in tiny_model.adapters.values():
        source = read_adapter(directory, SPEC)
        layout = UnitLayout.of(source.spec, SPEC, block_tokens)
        weights = load_weights(source)
        blocks = pack(weights, layout, torch.float32)
        assert blocks.shape == (source.spec.num_blocks(SPEC, block_tokens), SPEC.block_elems(block_tokens))
        units = gather_units(blocks, torch.arange(layout.num_blocks), layout)
        assert units.shape == (source.spec.rank, SPEC.num_layers, layout.unit_elems)
        assert set(layout.offsets) == set(weights)
        for module, pair in weights.items():
            assert torch.equal(units[:, :, layout.a_slice(module)].transpose(0, 1), pair.a)
            assert torch.equal(units[:, :, layout.b_slice(module)].transpose(0, 1), pair.b)


def test_a_unit_lies_where_the_design_says(tiny_model: TinyModel) -> None:
    """Unit u = rank_index * layers + layer, at (u // units_per_block, u % units_per_block * unit_elems)."""
    source = read_adapter(tiny_model.adapters["adapter-01"], SPEC)
    layout = UnitLayout.of(source.spec, SPEC, 16)
    weights = load_weights(source)
    blocks = pack(weights, layout, torch.float32)
    # Query and value projections: 64 + 64 and 64 + 32 elements.
    assert layout.unit_elems == 224
    assert layout.offsets == {"q_proj": 0, "v_proj": 128}
    rank_index, layer = 5, 2
    unit = rank_index * SPEC.num_layers + layer
    start = unit % layout.units_per_block * layout.unit_elems
    row = blocks[unit // layout.units_per_block, start : start + layout.unit_elems]
    query, value = weights["q_proj"], weights["v_proj"]
    expected = (query.a, query.b, value.a, value.b)
    assert torch.equal(row, torch.cat([part[layer, rank_index] for part in expected]))
    assert int(blocks.count_nonzero()) == 8 * 3 * 224, "the rest of the blocks is zero"
