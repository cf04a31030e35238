"""The bank of stitched adapters: room, eviction, growth, and what its copies hold."""

import pytest
import torch

from libra.model.bank import AdapterBank
from libra.model.lora import GATE_UP, OUTPUT, GatheredAdapters, Segment, module_groups
from libra.model.packing import UnitLayout, gather_units
from libra.model.stitched import StitchedAdapters, bags_for
from libra.spec import TARGET_MODULES, AdapterSpec, ModelSpec
from tests.tiny_models import SPEC

BLOCK_TOKENS = 16
RANKS = {"a": 16, "b": 20, "c": 9, "d": 2}
SLOTS = {"a": 1, "b": 2, "c": 1, "d": 1}
LAYOUTS = {name: UnitLayout.of(AdapterSpec(name, rank), SPEC, BLOCK_TOKENS) for name, rank in RANKS.items()}


@pytest.fixture
def hbm() -> torch.Tensor:
    """A pool whose block i is filled with i."""
    numbers = torch.arange(200, dtype=torch.float32)[:, None]
    return numbers.expand(-1, SPEC.block_elems(BLOCK_TOKENS)).contiguous()


def wanted(names: str, first_block: int = 0, generation: int = 0) -> dict[str, tuple[int, list[int]]]:
    return {name: (generation, list(range(first_block, first_block + LAYOUTS[name].num_blocks))) for name in names}


def make_bank(capacity: int) -> AdapterBank:
    return AdapterBank(SPEC, LAYOUTS, torch.float32, capacity)


def test_copies_stand_apart_and_are_kept(hbm: torch.Tensor) -> None:
    bank = make_bank(4)
    first = bank.stitch(hbm, wanted("ab"))
    second = bank.stitch(hbm, wanted("bc"))
    assert second["b"] is first["b"]
    assert bank.stitch(hbm, wanted("a"))["a"] is first["a"]
    places = {"a": first["a"].place, "b": first["b"].place, "c": second["c"].place}
    assert {name: place.num_slots for name, place in places.items()} == {name: SLOTS[name] for name in "abc"}
    ranges = [range(place.start, place.start + place.num_slots) for place in places.values()]
    assert sorted(slot for slots in ranges for slot in slots) == list(range(4))


def test_room_is_made_by_dropping_the_copy_unused_for_longest(hbm: torch.Tensor) -> None:
    bank = make_bank(4)
    first = bank.stitch(hbm, wanted("abc"))
    bank.stitch(hbm, wanted("ac"))
    after = bank.stitch(hbm, wanted("d"))
    assert after["d"].place.start == first["b"].place.start
    assert bank.stitch(hbm, wanted("a"))["a"] is first["a"]
    assert bank.stitch(hbm, wanted("b"))["b"] is not first["b"]


def test_a_batch_larger_than_the_bank_makes_it_grow(hbm: torch.Tensor) -> None:
    bank = make_bank(2)
    entries = bank.stitch(hbm, wanted("abcd"))
    assert bank.capacity >= 5
    assert set(entries) == set("abcd")


def test_a_copy_follows_its_generation_and_is_forgotten_on_request(hbm: torch.Tensor) -> None:
    bank = make_bank(4)
    old = bank.stitch(hbm, wanted("d", first_block=3))["d"]
    assert bank.stitch(hbm, wanted("d", first_block=50))["d"] is old
    new = bank.stitch(hbm, wanted("d", first_block=50, generation=1))["d"]
    assert new.weights[0][OUTPUT] is not None
    a_table, _ = bank.tables[0][OUTPUT]
    fan_in = bank.groups[OUTPUT].fan_in
    assert float(a_table[new.place.start * fan_in, 0]) == 50.0
    bank.forget("d")
    assert bank.stitch(hbm, wanted("d", first_block=60, generation=1))["d"] is not new


@pytest.mark.parametrize(
    ("width", "piece"), [(64, 64), (448, 448), (512, 256), (1408, 352), (14336, 448), (509 * 2, 1018)]
)
def test_pieces_are_as_wide_as_registers_hold(width: int, piece: int) -> None:
    spec = ModelSpec("wide", 1, 64, 1, 1, 64, width, 100)
    group = module_groups(spec)[GATE_UP]
    assert group.piece_width == piece
    assert [group.columns(index) for index in range(2)] == [slice(0, width), slice(width, 2 * width)]


def test_wide_outputs_get_what_plain_products_give() -> None:
    """Outputs of several pieces, ranks of several slots, tokens in bags and in a chunk that is padded."""
    spec = ModelSpec("wide", 1, 512, 2, 1, 256, 1408, 100, dtype_bytes=4)
    adapters = [AdapterSpec(name, rank, TARGET_MODULES) for name, rank in RANKS.items()]
    layouts = {adapter.adapter_id: UnitLayout.of(adapter, spec, 2 * BLOCK_TOKENS) for adapter in adapters}
    generator = torch.Generator().manual_seed(4)
    hbm = torch.randn(200, spec.block_elems(2 * BLOCK_TOKENS), generator=generator) / 8
    blocks, first = {}, 0
    for name, layout in layouts.items():
        blocks[name] = list(range(first, first + layout.num_blocks))
        first += layout.num_blocks
    bank = AdapterBank(spec, layouts, torch.float32, 8)
    entries = bank.stitch(hbm, {name: (0, of_adapter) for name, of_adapter in blocks.items()})
    users = ["b", None, "a", "c"]
    places = [entries[user].place if user else None for user in users]
    segments = [Segment(row, row + 1, user) for row, user in enumerate(users)] + [Segment(4, 9, "b")]
    stitched = StitchedAdapters(bank, bags_for(bank.groups, places), 4, segments[4:], entries)
    units = {name: gather_units(hbm, torch.tensor(blocks[name]), layouts[name]) for name in layouts}
    plain = GatheredAdapters(bank.groups, segments, units, layouts)
    for index, group in enumerate(bank.groups):
        x = torch.randn(11, group.fan_in, generator=generator) / group.fan_in**0.5
        out = torch.randn(11, group.num_pieces * group.piece_width, generator=generator)
        added, expected = out.clone(), out.clone()
        stitched.add(0, index, x, added)
        plain.add(0, index, x, expected)
        torch.testing.assert_close(added, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(added[[1, 9, 10]], out[[1, 9, 10]])
        assert not torch.equal(added[8], out[8])
