"""Time to reuse: exposure, rates and values against hand-worked numbers, and the ranking they give."""

import math
from dataclasses import replace

import numpy as np
import pytest

from libra.cache.expected_reuse import FIRST_HORIZON_S, ExpectedReuse
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import RankingContext
from libra.cache.reuse_table import EDGES_S, NUM_BUCKETS, NUM_CLASSES, ReuseTable, bucket_of, exposure_of
from libra.errors import LibraError
from tests.libra.builders import Cache, adapters, build_cache, request, serve

NONE_IDLE = np.zeros((NUM_CLASSES, NUM_BUCKETS))


def times(*seconds: float) -> np.ndarray:
    return np.array(seconds, dtype=np.float64)


def classes(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.intp)


def test_an_edge_belongs_to_the_bucket_it_opens() -> None:
    assert EDGES_S[:4].tolist() == pytest.approx([0.0, 0.25, 0.25 * math.sqrt(2), 0.5])
    assert bucket_of(times(0.0, 0.2, 0.25, 0.5, 1e9)).tolist() == [0, 0, 1, 3, NUM_BUCKETS - 1]


def test_exposure_is_the_time_spent_in_each_bucket_and_adds_up_to_the_age() -> None:
    exposure_s = exposure_of(classes(0, 0, 2), times(0.3, 0.1, 1e6))
    assert exposure_s[0, :2].tolist() == pytest.approx([0.25 + 0.1, 0.05])
    assert exposure_s[0].sum() == pytest.approx(0.4)
    assert exposure_s[2].sum() == pytest.approx(1e6)
    assert exposure_s[1].sum() == 0.0


def test_a_steady_rate_is_worth_rate_over_rate_plus_discount() -> None:
    """Blocks that return like a Poisson process of 0.1/s, horizon 30 s: 0.1 / (0.1 + 1/30) = 0.75 at any idle time."""
    table = ReuseTable(half_life_s=1e9)
    waits = np.random.default_rng(0).exponential(10.0, 200_000)
    table.note_used(np.zeros(len(waits), dtype=np.intp), waits)
    values = table.values(NONE_IDLE, horizon_s=30.0)[0]
    within = EDGES_S < 30.0
    assert values[:-1][within] == pytest.approx(0.75, abs=0.02)


def test_what_always_returns_after_a_minute_is_worth_more_the_nearer_the_minute() -> None:
    table = ReuseTable(half_life_s=1e9)
    table.note_used(np.zeros(10_000, dtype=np.intp), np.random.default_rng(0).normal(60.0, 3.0, 10_000))
    values = table.values(NONE_IDLE, horizon_s=30.0)[0]
    at = [float(values[bucket_of(times(age))[0]]) for age in (1.0, 20.0, 50.0)]
    assert at == sorted(at)
    # From the edge at 45.3 s the next use is 15 s away: exp(-15 / 30) = 0.61.
    assert at[2] == pytest.approx(math.exp(-14.7 / 30.0), abs=0.1)
    assert values[bucket_of(times(200.0))[0]] < 0.2


def test_blocks_nobody_came_back_for_lower_the_value() -> None:
    table = ReuseTable(half_life_s=1e9)
    table.note_used(np.zeros(100, dtype=np.intp), np.full(100, 5.0))
    before = table.values(NONE_IDLE, 30.0)[0, 0]
    table.note_forgotten(np.zeros(900, dtype=np.intp), np.full(900, 100.0))
    after = table.values(NONE_IDLE, 30.0)[0, 0]
    idle = table.values(exposure_of(np.zeros(900, dtype=np.intp), np.full(900, 100.0)), 30.0)[0, 0]
    assert before > after > idle > 0


def test_counts_fade_by_half_in_a_half_life() -> None:
    table = ReuseTable(half_life_s=100.0)
    table.note_used(np.zeros(1000, dtype=np.intp), np.full(1000, 5.0))
    fresh = ReuseTable(half_life_s=100.0)
    fresh.note_used(np.zeros(500, dtype=np.intp), np.full(500, 5.0))
    table.fade(100.0)
    assert table.values(NONE_IDLE, 30.0) == pytest.approx(fresh.values(NONE_IDLE, 30.0))


def test_values_are_shares_and_finite_even_before_anything_is_known() -> None:
    values = ReuseTable(100.0).values(NONE_IDLE, 30.0)
    assert np.isfinite(values).all()
    assert ((values >= 0) & (values <= 1)).all()


# ---- the ranker ----------------------------------------------------------------------------------------------------


def returning_cache() -> tuple[Cache, ExpectedReuse]:
    """Sessions of two turns 20 s apart, and as many of one turn that never return."""
    cache = build_cache(replace(FASTLIBRA, ranker=ExpectedReuse(), swapper=None), hbm_blocks=400, host_blocks=400)
    for number in range(40):
        first = [1000 + number] * 8
        serve(cache, request(4 * number, first, [1], "a0"))
        cache.pass_time(20.0)
        serve(cache, request(4 * number + 1, [*first, 5, 5, 5, 5], [1], "a0"))
        cache.pass_time(1.0)
    ranker = cache.memory.ranker
    assert isinstance(ranker, ExpectedReuse)
    return cache, ranker


def context(now_s: float) -> RankingContext:
    return RankingContext(now_s, "out", "hbm", 1, 1.0, 1e9, 1e9, 0.001)


def test_a_session_about_to_return_stands_above_one_that_is_long_gone() -> None:
    cache, ranker = returning_cache()
    serve(cache, request(900, [7] * 8, [1], "a0"))
    node = int(cache.tree.match(cache.manager.adapter_node("a0"), cache_hashes(cache, [7] * 8))[-1])
    used_s = float(cache.tree.last_use[node])
    at = [
        float(ranker.score(cache.tree, np.array([node]), context(used_s + idle_s))[0]) for idle_s in (1.0, 17.0, 200.0)
    ]
    assert at[1] > at[0] > at[2]


def cache_hashes(cache: Cache, tokens: list[int]) -> list[int]:
    from tests.libra.builders import sequence_of

    return sequence_of(request(901, tokens, [1], "a0")).hashes(len(tokens) // 4)


def test_an_adapter_is_worth_what_its_request_rate_says_idle_or_not() -> None:
    """A decayed count of v visits is a rate of v * decay_rate: v * decay_rate * H / (1 + v * decay_rate * H)."""
    cache = build_cache(replace(FASTLIBRA, ranker=ExpectedReuse(), swapper=None), specs=adapters(1, 1))
    serve(cache, request(0, [1] * 5, [1], "a0"))
    tree, ranker = cache.tree, cache.memory.ranker
    nodes = np.array([cache.manager.adapter_node("a0"), cache.manager.adapter_node("a1")])
    scores = ranker.score(tree, nodes, context(cache.clock.now()))
    expected = float(np.exp(tree.log_visits_at(nodes[:1], cache.clock.now()))[0]) * tree.decay_rate
    expected *= FIRST_HORIZON_S["hbm"]
    assert scores[0] == pytest.approx(expected / (1 + expected))
    assert scores[1] == pytest.approx(0.0, abs=1e-9)


def test_the_horizon_follows_how_long_evicted_kv_had_been_idle() -> None:
    cache, ranker = returning_cache()
    before = ranker._horizon_s["hbm"]
    cache.pass_time(500.0)
    cache.memory.evict(0, cache.tree.evictable_blocks[0])
    assert ranker._horizon_s["hbm"] > before


def test_copies_share_nothing() -> None:
    ranker = ExpectedReuse()
    copy = ranker.fresh()
    assert isinstance(copy, ExpectedReuse)
    copy._table.note_used(classes(0), times(1.0))
    assert not np.array_equal(copy._table.values(NONE_IDLE, 1.0), ranker._table.values(NONE_IDLE, 1.0))


@pytest.mark.parametrize("wrong", [{"refresh_s": 0.0}, {"half_life_s": -1.0}])
def test_times_must_be_positive(wrong: dict[str, float]) -> None:
    with pytest.raises(LibraError, match="expected reuse"):
        ExpectedReuse(**wrong)
