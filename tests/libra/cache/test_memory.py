"""Leaving HBM, coming back, and making room in host memory."""

from dataclasses import replace

import numpy as np
import pytest

from baselines import POLICIES
from libra.cache.holding import Admission
from libra.cache.memory import ADAPTER, KV
from libra.cache.policy import CachePolicy
from libra.cache.tree import ABSENT, LEAVING, PRESENT, SAVING, Residency
from libra.engine.link import Direction, Priority
from tests.libra.builders import BLOCK_BYTES, Cache, adapters, build_cache, request, sequence_of, serve

LRU = replace(POLICIES["lru"], swapper=None)


def history(cache: Cache, number: int, num_blocks: int, adapter: str | None = None) -> list[int]:
    """Leaves ``num_blocks`` of history of a request of its own, one second later than the last; returns its nodes."""
    cache.pass_time(1.0)
    prompt = [10 + number] * (4 * num_blocks)
    serve(cache, request(number, prompt, [1], adapter))
    labels = sequence_of(request(number, prompt, [1], adapter)).hashes(num_blocks)
    return [int(node) for node in cache.tree.match(cache.manager.adapter_node(adapter), labels)]


def evicted(cache: Cache, count: int, kind: int = KV) -> list[int]:
    """Labels of what ``evict`` takes, in order."""
    cache.memory.evictions = taken = []
    cache.memory.evict(kind, count)  # type: ignore[arg-type]
    return [label for _, label in taken]


# ---- order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host_kv_tier", [True, False])
def test_the_coldest_chain_leaves_whole_tail_first_before_a_warmer_one(host_kv_tier: bool) -> None:
    cache = build_cache(replace(LRU, host_kv_tier=host_kv_tier), specs=[])
    cold, warm = history(cache, 0, 3), history(cache, 1, 3)
    labels = [cache.tree.labels[node] for node in (*reversed(cold), *reversed(warm))]
    assert evicted(cache, 6) == labels
    cache.manager.check()


def test_a_chain_used_again_since_the_ranking_is_spared() -> None:
    cache = build_cache(LRU, specs=[])
    cold, warm = history(cache, 0, 2), history(cache, 1, 2)
    first = evicted(cache, 1)
    assert first == [cache.tree.labels[cold[1]]]
    cache.pass_time(0.01)  # the ranking still holds
    cache.tree.touch(np.array(cold[:1]), cache.clock.now(), visits=1)
    assert evicted(cache, 2) == [cache.tree.labels[node] for node in reversed(warm)]


def test_an_adapter_leaves_only_after_its_kv() -> None:
    cache = build_cache(LRU, specs=adapters(1))
    (block,) = history(cache, 0, 1, "a0")
    adapter = cache.manager.adapter_node("a0")
    assert evicted(cache, 3) == [cache.tree.labels[block], cache.tree.labels[adapter]]


def test_without_dependency_each_region_evicts_its_own_kind() -> None:
    cache = build_cache(replace(POLICIES["vllm"], adapter_share=0.5), specs=adapters(1))
    (block,) = history(cache, 0, 1, "a0")
    adapter = cache.manager.adapter_node("a0")
    assert evicted(cache, 1, ADAPTER) == [cache.tree.labels[adapter]]
    assert cache.tree.hbm[block] == PRESENT
    assert evicted(cache, 1, KV) == [cache.tree.labels[block]]
    cache.manager.check()


def test_asking_for_more_than_can_be_had_is_an_error() -> None:
    cache = build_cache(LRU, specs=[])
    with pytest.raises(RuntimeError, match="no victim left"):
        cache.memory.evict(KV, 1)


# ---- saving --------------------------------------------------------------------------------------------------------


def test_a_dirty_victim_frees_its_block_only_when_it_is_saved() -> None:
    cache = build_cache(LRU, specs=[])
    (node,) = history(cache, 0, 1)
    free = cache.memory.hbm.num_free
    cache.memory.evict(KV, 1)
    assert cache.tree.residency(node) is Residency.SAVING
    assert (cache.memory.free_blocks(KV), cache.memory.soon_free_blocks(KV)) == (free, free + 1)
    cache.pass_time(0.0005)
    assert cache.memory.free_blocks(KV) == free
    cache.pass_time(0.0005)
    assert cache.memory.free_blocks(KV) == free + 1
    assert cache.tree.residency(node) is Residency.HOST
    assert cache.memory.counters.swap_out_bytes == BLOCK_BYTES


def test_a_clean_victim_frees_its_block_at_once_and_moves_no_bytes() -> None:
    cache = build_cache(LRU, specs=[])
    (node,) = history(cache, 0, 1)
    cache.memory.evict(KV, 1)
    cache.settle()
    cache.memory.load([node], Priority.DEMAND)
    cache.settle()
    assert (cache.tree.hbm[node], cache.tree.host[node]) == (PRESENT, PRESENT)
    out = cache.memory.counters.swap_out_bytes
    free = cache.memory.hbm.num_free
    cache.memory.evict(KV, 1)
    assert cache.memory.hbm.num_free == free + 1
    assert cache.memory.counters.swap_out_bytes == out
    assert not cache.link.pending()


def test_a_match_calls_back_a_node_that_is_being_saved() -> None:
    cache = build_cache(LRU, hbm_blocks=4, specs=[])
    (node,) = history(cache, 0, 1)
    cache.memory.evict(KV, 1)
    sequence = sequence_of(request(1, [10] * 4 + [5], adapter=None))
    assert cache.manager.admit(sequence) is Admission.ADMITTED
    assert (cache.tree.hbm[node], cache.tree.host[node]) == (PRESENT, SAVING)
    cache.settle()
    assert (cache.tree.hbm[node], cache.tree.host[node]) == (PRESENT, PRESENT)
    assert cache.manager.holdings[sequence].hbm_hit_blocks == 1
    cache.manager.check()


def test_a_rescued_victim_makes_admission_find_another() -> None:
    cache = build_cache(LRU, hbm_blocks=4, specs=[])
    first, second = history(cache, 0, 2), history(cache, 1, 2)
    cache.memory.evict(KV, 2)  # the first chain is on its way out
    assert [cache.tree.hbm[node] for node in first] == [LEAVING, LEAVING]
    sequence = sequence_of(request(2, [10] * 8 + [5], adapter=None))
    assert cache.manager.admit(sequence) is Admission.SAVING
    assert [cache.tree.hbm[node] for node in first] == [PRESENT, PRESENT]
    assert cache.tree.hbm[second[1]] == LEAVING
    cache.settle()
    assert cache.manager.admit(sequence) is Admission.ADMITTED
    cache.manager.check()


def test_admission_that_waits_calls_no_block_back_below_an_adapter_that_is_away() -> None:
    cache = build_cache(LRU, hbm_blocks=8, specs=adapters(1))
    (block,) = history(cache, 0, 1, "a0")
    history(cache, 1, 5)
    cache.memory.evict(KV, 3)  # the block must be saved, its adapter leaves at once
    adapter = cache.manager.adapter_node("a0")
    assert [int(cache.tree.hbm[node]) for node in (adapter, block)] == [ABSENT, LEAVING]
    sequence = sequence_of(request(2, [10] * 4 + [5] * 8, adapter="a0"))
    assert cache.manager.admit(sequence) is Admission.SAVING
    cache.manager.check()
    cache.settle()
    assert cache.manager.admit(sequence) is Admission.ADMITTED
    assert cache.manager.holdings[sequence].host_hit_blocks == 1
    cache.settle()
    cache.manager.check()


def test_saves_go_out_in_chunks() -> None:
    cache = build_cache(LRU, hbm_blocks=40, specs=[])
    history(cache, 0, 20)
    cache.memory.evict(KV, 20)
    free = cache.memory.hbm.num_free
    cache.pass_time(0.0165)
    assert cache.memory.hbm.num_free == free + 16, "the first 16 blocks are free while the other four still move"
    cache.settle()
    assert cache.memory.hbm.num_free == free + 20


def test_write_back_at_the_end_makes_history_clean() -> None:
    cache = build_cache(replace(LRU, write_back="on_finish"), specs=[])
    nodes = history(cache, 0, 3)
    assert [cache.tree.host[node] for node in nodes] == [PRESENT] * 3
    free = cache.memory.hbm.num_free
    cache.memory.evict(KV, 3)
    assert cache.memory.hbm.num_free == free + 3


def test_a_victim_whose_write_back_is_under_way_is_not_saved_twice() -> None:
    cache = build_cache(replace(LRU, write_back="on_finish"), specs=[])
    sequence = sequence_of(request(0, [1] * 8, [1], None))
    assert cache.manager.admit(sequence) is Admission.ADMITTED
    sequence.num_computed = 8
    cache.manager.commit(sequence)
    cache.manager.release(sequence)
    assert cache.memory.counters.swap_out_bytes == 2 * BLOCK_BYTES
    cache.memory.evict(KV, 2)
    assert cache.memory.counters.swap_out_bytes == 2 * BLOCK_BYTES
    cache.settle()
    assert cache.memory.hbm.num_free == 16
    cache.manager.check()


def test_without_a_host_tier_evicted_kv_is_gone() -> None:
    cache = build_cache(replace(LRU, host_kv_tier=False), specs=[])
    history(cache, 0, 2)
    cache.memory.evict(KV, 2)
    assert cache.memory.counters.dropped_kv_blocks == 2
    assert cache.memory.counters.swap_out_bytes == 0
    assert len(cache.tree) == 1


# ---- loading -------------------------------------------------------------------------------------------------------


def test_a_load_pins_everything_above_it_until_it_ends() -> None:
    cache = build_cache(LRU, specs=adapters(1))
    nodes = history(cache, 0, 2, "a0")
    cache.memory.evict(KV, 1)
    cache.settle()
    cache.memory.load([nodes[1]], Priority.PREFETCH)
    above = [nodes[0], cache.manager.adapter_node("a0")]
    assert [int(cache.tree.pins[node]) for node in (*above, nodes[1])] == [1, 1, 1]
    assert cache.memory.obtainable_blocks(KV) == cache.memory.hbm.num_free
    cache.settle()
    assert [int(cache.tree.pins[node]) for node in (*above, nodes[1])] == [0, 0, 0]


def test_demand_for_a_prefetched_node_promotes_its_transfer_and_counts_it_as_useful() -> None:
    cache = build_cache(LRU, specs=adapters(1, 1))
    first, second = (cache.manager.adapter_node(name) for name in ("a0", "a1"))
    cache.memory.load([first], Priority.PREFETCH)
    cache.memory.load([second], Priority.PREFETCH)
    assert cache.manager.admit(sequence_of(request(0, adapter="a1"))) is Admission.ADMITTED
    assert cache.memory.loading[second].priority is Priority.DEMAND
    assert cache.memory.counters.prefetch_used_bytes == cache.tree.num_bytes[second]
    assert cache.memory.counters.prefetch_in_bytes == cache.tree.num_bytes[[first, second]].sum()


def test_an_adapter_that_host_memory_has_no_room_for_comes_from_disk() -> None:
    cache = build_cache(LRU, host_blocks=3, specs=adapters(1, 1))
    assert [cache.manager.adapter_tier(name) for name in ("a0", "a1")] == ["host", "disk"]
    assert cache.manager.admit(sequence_of(request(0, adapter="a1"))) is Admission.ADMITTED
    assert cache.memory.loading[cache.manager.adapter_node("a1")].direction is Direction.DISK
    assert cache.manager.adapter_tier("a1") == "loading"
    cache.settle()
    assert cache.manager.adapter_tier("a1") == "hbm"


def test_an_adapter_from_disk_is_saved_to_host_memory_when_it_leaves_and_there_is_room() -> None:
    cache = build_cache(replace(LRU, prefetch="queue", idle_adapters="discard"), host_blocks=2, specs=adapters(1, 1))
    node = cache.manager.adapter_node("a1")
    serve(cache, request(0, [1, 2], [1], "a1"))
    cache.manager.look_ahead([])
    # a0, which nobody has in HBM, gives way: adapters are the last to go, and nothing else is there.
    cache.settle()
    assert [cache.manager.adapter_tier(name) for name in ("a0", "a1")] == ["disk", "host"]
    assert cache.tree.residency(node) is Residency.HOST
    cache.manager.check()


# ---- the host tier -------------------------------------------------------------------------------------------------


def full_host(policy: CachePolicy = LRU) -> tuple[Cache, list[int], list[int]]:
    """Host memory of 4 blocks, all taken: two blocks only it holds, then two second copies of what HBM holds."""
    cache = build_cache(policy, hbm_blocks=16, host_blocks=4, specs=[])
    alone, twice = history(cache, 0, 2), history(cache, 1, 2)
    cache.memory.evict(KV, 4)
    cache.settle()
    cache.memory.load(twice, Priority.DEMAND)
    cache.settle()
    assert cache.memory.host.num_free == 0
    return cache, alone, twice


def test_second_copies_are_dropped_first_then_the_coldest_leaf() -> None:
    cache, alone, twice = full_host()
    tree = cache.tree
    assert cache.memory.make_host_room(1, spare_adapters=True)
    assert [int(tree.host[node]) for node in (*alone, *twice)] == [PRESENT, PRESENT, PRESENT, ABSENT]
    assert cache.memory.make_host_room(2, spare_adapters=True)
    assert [int(tree.host[node]) for node in twice] == [ABSENT, ABSENT]
    assert cache.memory.counters.dropped_kv_blocks == 0
    assert cache.memory.make_host_room(3, spare_adapters=True)
    assert tree.host[alone[0]] == PRESENT, "the tail goes before its parent"
    assert cache.memory.counters.dropped_kv_blocks == 1
    assert cache.memory.make_host_room(4, spare_adapters=True)
    assert cache.memory.counters.dropped_kv_blocks == 2
    cache.manager.check()


def test_what_a_waiting_request_has_pinned_or_a_load_reads_is_never_dropped() -> None:
    cache, alone, twice = full_host()
    cache.memory.load(alone, Priority.DEMAND)
    assert not cache.memory.make_host_room(3, spare_adapters=True)
    assert [int(cache.tree.host[node]) for node in (*alone, *twice)] == [PRESENT, PRESENT, ABSENT, ABSENT]


def test_adapters_make_room_for_adapters_only_and_go_to_disk() -> None:
    cache = build_cache(LRU, host_blocks=4, specs=adapters(1, 1))
    assert not cache.memory.make_host_room(1, spare_adapters=True)
    assert cache.memory.make_host_room(1, spare_adapters=False)
    assert sorted(cache.manager.adapter_tier(name) for name in ("a0", "a1")) == ["disk", "host"]
    assert cache.memory.counters.dropped_kv_blocks == 0
    cache.manager.check()


def test_kv_is_dropped_when_adapters_fill_host_memory() -> None:
    cache = build_cache(LRU, host_blocks=2, specs=adapters(1))
    history(cache, 0, 2)
    cache.memory.evict(KV, 2)
    assert cache.memory.counters.dropped_kv_blocks == 2
    assert cache.manager.adapter_tier("a0") == "host"
