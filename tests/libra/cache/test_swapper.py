"""The two watermarks, the order of prefetches, and how much a tick may move."""

from dataclasses import replace

import numpy as np
import pytest

from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import CachePolicy, Indices, Ranker, RankingContext, Scores, SwapperConfig
from libra.cache.rankers import LeastRecentlyUsed
from libra.cache.tree import ABSENT, LOADING, PRESENT, DependencyTree
from libra.engine.link import Priority
from tests.libra.builders import RATES, Cache, adapters, build_cache, request, serve

POLICY = replace(FASTLIBRA, ranker=LeastRecentlyUsed(), swapper=SwapperConfig())


def fill(cache: Cache, num_blocks: int) -> None:
    """History of one request without an adapter."""
    serve(cache, request(99, range(4 * num_blocks), [1], None))


@pytest.mark.parametrize("total", [10, 20, 40, 100, 130, 200])
def test_above_the_high_watermark_it_evicts_just_below_it(total: int) -> None:
    cache = build_cache(POLICY, hbm_blocks=total, host_blocks=2 * total, specs=[])
    fill(cache, total)
    cache.manager.tick(1)
    cache.settle()
    used = total - cache.memory.hbm.num_free
    assert used == total * 95 // 100


@pytest.mark.parametrize("total", [20, 100])
def test_at_the_high_watermark_nothing_happens(total: int) -> None:
    cache = build_cache(POLICY, hbm_blocks=total, host_blocks=2 * total, specs=[])
    fill(cache, total * 95 // 100)
    cache.manager.tick(1)
    assert not cache.link.pending()


def test_blocks_being_saved_are_not_evicted_for_twice() -> None:
    cache = build_cache(POLICY, hbm_blocks=100, host_blocks=200, specs=[])
    fill(cache, 100)
    cache.manager.tick(1)
    first = cache.memory.counters.evicted_blocks
    cache.manager.tick(1)
    assert cache.memory.counters.evicted_blocks == first == 5


def test_what_is_in_use_stays_even_above_the_watermark() -> None:
    cache = build_cache(POLICY, hbm_blocks=10, specs=[])
    fill(cache, 10)
    cache.tree.pin(np.flatnonzero(cache.tree.in_use & ~cache.tree.is_adapter))
    cache.manager.tick(1)
    assert cache.memory.counters.evicted_blocks == 0


def on_host(cache: Cache, requests: int, blocks: int) -> list[list[int]]:
    """Chains that only host memory holds, each a second younger than the last."""
    chains = []
    for number in range(requests):
        cache.pass_time(1.0)
        sequence = serve(cache, request(number, [10 + number] * (4 * blocks), [1], None))
        base = cache.manager.adapter_node(None)
        chains.append([int(node) for node in cache.tree.match(base, sequence.hashes(blocks)[:blocks])])
    cache.memory.evict(0, cache.memory.tree.evictable_blocks[0])
    cache.settle()
    return chains


def test_below_the_low_watermark_the_best_come_in_first_parents_before_children() -> None:
    # 30 ms of link time per tick: room for 3 blocks of a millisecond... times ten.
    policy = replace(POLICY, swapper=SwapperConfig(tick_s=0.003))
    cache = build_cache(policy, hbm_blocks=20, specs=[])
    old, young = on_host(cache, 2, 2)
    cache.manager.tick(1)
    cache.settle()
    hbm = cache.tree.hbm
    assert [int(hbm[node]) for node in (*young, *old)] == [PRESENT, PRESENT, PRESENT, ABSENT]
    cache.manager.tick(1)
    assert hbm[old[1]] == LOADING
    cache.manager.check()


@pytest.mark.parametrize(("total", "low"), [(10, 0.7), (20, 0.7), (10, 0.5), (30, 0.7)])
def test_prefetch_fills_up_to_the_low_watermark_and_not_beyond(total: int, low: float) -> None:
    policy = replace(POLICY, swapper=SwapperConfig(low=low))
    cache = build_cache(policy, hbm_blocks=total, host_blocks=100, specs=[])
    on_host(cache, 3, total // 2)
    assert cache.memory.hbm.num_free == total
    cache.manager.tick(1)
    cache.settle()
    assert total - cache.memory.hbm.num_free == round(low * total)


def test_prefetch_is_bounded_by_what_the_link_moves_in_an_interval() -> None:
    slow = replace(RATES, link_bytes_per_s=RATES.link_bytes_per_s / 20)  # 5 blocks in 100 ms
    cache = build_cache(POLICY, hbm_blocks=40, specs=[], rates=slow)
    on_host(cache, 1, 12)
    moved = []
    for _ in range(3):
        before = cache.memory.counters.prefetch_in_bytes
        cache.manager.tick(1)
        moved.append((cache.memory.counters.prefetch_in_bytes - before) // cache.memory.block_bytes)
        cache.settle()
    assert moved == [5, 5, 2]


def test_prefetches_still_on_their_way_take_their_part_of_the_interval() -> None:
    slow = replace(RATES, link_bytes_per_s=RATES.link_bytes_per_s / 20)  # 5 blocks in 100 ms
    cache = build_cache(POLICY, hbm_blocks=40, specs=[], rates=slow)
    on_host(cache, 1, 12)
    cache.manager.tick(1)
    cache.pass_time(0.06)
    before = cache.memory.counters.prefetch_in_bytes
    cache.manager.tick(1)
    assert cache.memory.counters.prefetch_in_bytes == before  # one transfer of five blocks has not ended
    cache.settle()
    cache.manager.tick(1)
    assert cache.memory.counters.prefetch_in_bytes > before


def test_what_takes_longer_than_an_interval_comes_alone() -> None:
    slow = replace(RATES, link_bytes_per_s=RATES.link_bytes_per_s / 50)  # 2 blocks in 100 ms
    cache = build_cache(POLICY, hbm_blocks=40, specs=adapters(2, 2), rates=slow)  # of 4 blocks each
    cache.manager.tick(1)
    loading = [name for name in ("a0", "a1") if cache.manager.adapter_tier(name) == "loading"]
    assert loading == ["a0"]
    cache.settle()
    cache.manager.tick(1)
    assert cache.manager.adapter_tier("a1") == "loading"


def test_prefetch_can_be_turned_off() -> None:
    cache = build_cache(replace(POLICY, swapper=SwapperConfig(prefetch=False)), specs=[])
    on_host(cache, 1, 3)
    cache.manager.tick(1)
    assert not cache.link.pending()


def test_adapters_come_before_their_kv_and_kv_without_its_adapter_stays_out() -> None:
    cache = build_cache(POLICY, hbm_blocks=20, specs=adapters(1))
    serve(cache, request(0, [1] * 8, [1], "a0"))
    adapter = cache.manager.adapter_node("a0")
    cache.memory.evict(0, 4)
    cache.settle()
    cache.manager.tick(1)
    cache.manager.check()
    first = next(iter(cache.memory.loading.values()))
    assert first.nodes == [adapter]
    cache.settle()
    assert cache.memory.hbm.num_free == 20 - 4


@pytest.mark.parametrize("dependency", [True, False])
def test_kv_below_a_missing_grandparent_is_not_prefetched(dependency: bool) -> None:
    cache = build_cache(replace(POLICY, dependency=dependency), hbm_blocks=20, specs=adapters(2))
    nodes = history_below(cache, "a0", 3)
    tree, adapter = cache.tree, cache.manager.adapter_node("a0")
    if dependency:
        cache.memory.evict(0, 7)
    else:
        # The root of the chain and its adapter are away, the middle block is in HBM, the last on host only.
        cache.memory.discard(nodes[2])
        cache.memory.discard(adapter)
    cache.settle()
    tree.host[adapter] = ABSENT  # so that the adapter cannot come in either
    blocks, tree.host_blocks[adapter] = tree.host_blocks[adapter], []
    cache.memory.host.kv_region.release(blocks)
    cache.manager.tick(1)
    cache.manager.check()
    assert not cache.link.pending()


def history_below(cache: Cache, adapter: str, blocks: int) -> list[int]:
    sequence = serve(cache, request(0, [1] * (4 * blocks), [1], adapter))
    node = cache.manager.adapter_node(adapter)
    return [int(found) for found in cache.tree.match(node, sequence.hashes(blocks)[:blocks])]


class CountsContexts(Ranker):
    """Ranks by index and notes how many adapters HBM held at each ranking."""

    depends_on_adapter_count = True

    def __init__(self) -> None:
        self.counts: list[int] = []

    def fresh(self) -> "CountsContexts":
        return self

    def score(self, tree: DependencyTree, nodes: Indices, context: RankingContext) -> Scores:
        if len(nodes) > 1:
            self.counts.append(context.adapters_in_hbm)
        return nodes.astype(np.float64)


def counting_policy() -> tuple[CachePolicy, CountsContexts]:
    ranker = CountsContexts()
    return replace(POLICY, ranker=ranker), ranker


def test_adapters_in_hbm_are_counted_anew_after_each_adapter_that_comes_in() -> None:
    policy, ranker = counting_policy()
    cache = build_cache(policy, hbm_blocks=20, specs=adapters(1, 1, 1, 1))
    cache.manager.tick(1)
    assert ranker.counts == [0, 1, 2]  # with the last of four, nothing is left to rank
    assert cache.tree.adapters_in_hbm == 4


def test_adapters_in_hbm_are_counted_anew_after_each_adapter_that_leaves() -> None:
    policy, ranker = counting_policy()
    cache = build_cache(policy, hbm_blocks=8, specs=adapters(1, 1, 1, 1))
    for number in range(4):
        cache.memory.load([cache.manager.adapter_node(f"a{number}")], Priority.DEMAND)
    cache.settle()
    ranker.counts.clear()
    cache.memory.evict(1, 6)
    assert ranker.counts == [4, 3, 2]
