"""The bank of stitched adapters: room, eviction, growth, and what its copies hold."""

import pytest
import torch

from libra.model.bank import AdapterBank
from libra.model.lora import OUTPUT
from libra.model.packing import UnitLayout
from libra.spec import AdapterSpec
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
