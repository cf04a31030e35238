"""The bank of stitched adapters: room, eviction, growth."""

import pytest
import torch

from libra.model.bank import AdapterBank
from libra.model.lora import OUTPUT
from libra.model.packing import UnitLayout
from libra.spec import AdapterSpec
from tests.tiny_models import SPEC

BLOCK_TOKENS = 16
RANKS = {"a": 4, "b": 8, "c": 4, "d": 2}
LAYOUTS = {name: UnitLayout.of(AdapterSpec(name, rank), SPEC, BLOCK_TOKENS) for name, rank in RANKS.items()}


@pytest.fixture
def hbm() -> torch.Tensor:
    """A pool whose block i is filled with i."""
    numbers = torch.arange(100, dtype=torch.float32)[:, None]
    return numbers.expand(-1, SPEC.block_elems(BLOCK_TOKENS)).contiguous()


def wanted(names: str, first_block: int = 0, generation: int = 0) -> dict[str, tuple[int, list[int]]]:
    return {name: (generation, list(range(first_block, first_block + LAYOUTS[name].num_blocks))) for name in names}


def make_bank(capacity: int) -> AdapterBank:
    return AdapterBank(SPEC, LAYOUTS, torch.float32, capacity)


def test_copies_stand_apart_and_are_kept(hbm: torch.Tensor) -> None:
    bank = make_bank(16)
    first = bank.stitch(hbm, wanted("ab"))
    second = bank.stitch(hbm, wanted("bc"))
    assert second["b"] is first["b"]
    assert bank.stitch(hbm, wanted("a"))["a"] is first["a"]
    ranges = [range(e.start, e.start + e.rank) for e in (first["a"], first["b"], second["c"])]
    assert sorted(row for rows in ranges for row in rows) == list(range(16))


def test_room_is_made_by_dropping_the_copy_unused_for_longest(hbm: torch.Tensor) -> None:
    bank = make_bank(16)
    first = bank.stitch(hbm, wanted("abc"))
    bank.stitch(hbm, wanted("ac"))
    after = bank.stitch(hbm, wanted("d"))
    assert after["d"].start == first["b"].start
    assert bank.stitch(hbm, wanted("a"))["a"] is first["a"]
    assert bank.stitch(hbm, wanted("b"))["b"] is not first["b"]


def test_a_batch_larger_than_the_bank_makes_it_grow(hbm: torch.Tensor) -> None:
    bank = make_bank(8)
    entries = bank.stitch(hbm, wanted("abcd"))
    assert bank.capacity >= 18
    assert set(entries) == set("abcd")


def test_a_copy_follows_its_generation_and_is_forgotten_on_request(hbm: torch.Tensor) -> None:
    bank = make_bank(16)
    old = bank.stitch(hbm, wanted("d", first_block=3))["d"]
    assert bank.stitch(hbm, wanted("d", first_block=50))["d"] is old
    new = bank.stitch(hbm, wanted("d", first_block=50, generation=1))["d"]
    assert new.weights[0][OUTPUT] is not None
    a_transposed, _ = bank.tables[0][OUTPUT]
    assert float(a_transposed[0, new.start]) == 50.0
    bank.forget("d")
    assert bank.stitch(hbm, wanted("d", first_block=60, generation=1))["d"] is not new
