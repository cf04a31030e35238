"""Regions hand out blocks and take them back; a tier knows who owns what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra.cache.pool import FREE, RUNNING, BlockTier
from libra.errors import LibraError


def test_blocks_are_owned_and_freed() -> None:
    tier = BlockTier("HBM", 4)
    blocks = tier.kv_region.allocate(3, owner=9)
    assert blocks == [2, 1, 0]
    assert [tier.owner[block] for block in range(4)] == [9, 9, 9, FREE]
    tier.kv_region.assign([1], RUNNING)
    tier.kv_region.release([2, 1])
    assert tier.owner == [9, FREE, FREE, FREE]
    assert tier.num_free == 3
    tier.check()


def test_a_unified_tier_has_one_region_and_a_split_one_two() -> None:
    unified, split = BlockTier("HBM", 10), BlockTier("HBM", 10, adapter_blocks=3)
    assert unified.kv_region is unified.adapter_region
    assert not unified.is_split
    assert split.is_split
    assert sorted(split.adapter_region.allocate(3, 1)) == [0, 1, 2]
    assert sorted(split.kv_region.allocate(7, 2)) == list(range(3, 10))
    assert split.num_free == 0
    split.check()


def test_asking_for_more_than_is_free_changes_nothing() -> None:
    tier = BlockTier("HBM", 2)
    with pytest.raises(RuntimeError, match="3 blocks asked"):
        tier.kv_region.allocate(3, 1)
    assert tier.num_free == 2
    assert tier.kv_region.allocate(0, 1) == []


def test_releasing_or_assigning_a_free_block_is_refused() -> None:
    tier = BlockTier("HBM", 2)
    with pytest.raises(RuntimeError, match="released twice"):
        tier.kv_region.release([1])
    with pytest.raises(RuntimeError, match="is free"):
        tier.kv_region.assign([1], 3)


def test_a_tier_without_blocks_is_refused() -> None:
    with pytest.raises(LibraError, match="host tier has 0 blocks"):
        BlockTier("host", 0)


def test_check_finds_a_block_that_is_owned_and_free() -> None:
    tier = BlockTier("HBM", 2)
    tier.owner[1] = 5
    with pytest.raises(AssertionError, match="disagree"):
        tier.check()


@given(st.lists(st.integers(-4, 4), max_size=40), st.booleans())
def test_nothing_is_lost_or_handed_out_twice(steps: list[int], split: bool) -> None:
    tier = BlockTier("HBM", 12, adapter_blocks=4 if split else None)
    region, held = tier.kv_region, list[int]()
    for step in steps:
        if step > 0 and step <= region.num_free:
            blocks = region.allocate(step, owner=1)
            assert not set(blocks) & set(held)
            held += blocks
        elif step < 0:
            region.release(held[:-step])
            held = held[-step:]
        tier.check()
        assert region.num_free + len(held) == region.num_blocks
