"""Drift: a permutation at every time, held for the asked time on average, with the popularity's shape unchanged."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.errors import LibraError
from tests.workloads.builders import trace_statistics
from workloads.demand import Demand
from workloads.drift import Drift, SwapRanking
from workloads.registry import WORKLOADS

SEEDS = range(20)


def ranking(period_s: float, seed: int, num_adapters: int, end_s: float) -> SwapRanking:
    arrivals = Drift(period_s).sample(np.random.default_rng(seed), 1.0, 0.0, end_s, num_adapters)
    assert isinstance(arrivals.ranking, SwapRanking)
    return arrivals.ranking


def order_at(found: SwapRanking, time_s: float) -> np.ndarray:
    ranks = np.arange(found.num_adapters)
    return found.holders(np.full(len(ranks), time_s), ranks)


@given(
    num_adapters=st.integers(1, 8),
    swaps=st.lists(st.tuples(st.floats(0, 10), st.integers(0, 7), st.integers(0, 7)), max_size=20),
    asked=st.lists(st.tuples(st.floats(-1, 11), st.integers(0, 7)), max_size=20),
)
@settings(max_examples=100)
def test_holders_are_those_of_one_swap_after_another(
    num_adapters: int, swaps: list[tuple[float, int, int]], asked: list[tuple[float, int]]
) -> None:
    swaps = sorted((time, one % num_adapters, other % num_adapters) for time, one, other in swaps)
    asked = sorted((time, rank % num_adapters) for time, rank in asked)
    found = SwapRanking(
        num_adapters,
        np.array([time for time, _, _ in swaps]),
        np.array([pair for _, *pair in swaps], dtype=np.int64).reshape(-1, 2),
    )
    expected = []
    for time, rank in asked:
        order = list(range(num_adapters))
        for swap_time, one, other in swaps:
            if swap_time <= time:
                order[one], order[other] = order[other], order[one]
        expected.append(order[rank])
    times, ranks = np.array([time for time, _ in asked]), np.array([rank for _, rank in asked], dtype=np.int64)
    assert found.holders(times, ranks).tolist() == expected


def test_every_order_is_a_permutation_and_the_first_is_by_index() -> None:
    found = ranking(20.0, 0, 30, 500.0)
    assert order_at(found, -1.0).tolist() == list(range(30))
    for time_s in (0.0, 50.0, 499.0):
        assert sorted(order_at(found, time_s).tolist()) == list(range(30))


@pytest.mark.parametrize("elapsed", [0.25, 1.0, 3.0])
def test_a_rank_is_kept_for_the_period_on_average(elapsed: float) -> None:
    # An adapter moves at rate 1 / period to one of the n - 1 other ranks, so after t periods it holds its own with
    # probability 1/n + (1 - 1/n) exp(-t n / (n - 1)).
    n, period_s = 50, 40.0
    kept = [np.mean(order_at(ranking(period_s, seed, n, 200.0), elapsed * period_s) == np.arange(n)) for seed in SEEDS]
    share = 1 / n + (1 - 1 / n) * math.exp(-elapsed * n / (n - 1))
    assert np.mean(kept) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / (n * len(SEEDS))))


def test_one_adapter_has_nothing_to_swap_with() -> None:
    assert len(ranking(5.0, 0, 1, 100.0).times) == 0


def test_the_hot_set_moves_and_the_shape_stays() -> None:
    def parts(arrivals: str) -> list[np.ndarray]:
        trace = WORKLOADS["translation"].generate(
            Demand(num_adapters=20, request_rate=50, duration_s=900, arrivals=arrivals, popularity="zipf:1.2")
        )
        found = [np.zeros(20), np.zeros(20)]
        for request in trace.requests:
            if request.arrival_s < 60 or request.arrival_s >= 840:
                found[request.arrival_s >= 840][int((request.adapter or "").removeprefix("lora-"))] += 1
        return found

    early, late = parts("poisson")
    assert np.corrcoef(early, late)[0, 1] > 0.95
    early, late = parts("drift:200")
    assert np.corrcoef(early, late)[0, 1] < 0.8
    # The busiest adapter's share of a minute, 0.35 of zipf:1.2 over 20, is hardly diluted by the swaps within it.
    assert early.max() / early.sum() > 0.25
    assert late.max() / late.sum() > 0.25


def test_a_moving_hot_set_looks_flatter_over_the_whole_run() -> None:
    slopes = []
    for arrivals in ("poisson", "drift:100"):
        demand = Demand(num_adapters=20, request_rate=20, arrivals=arrivals)
        slopes.append(trace_statistics(WORKLOADS["translation"].generate(demand)).popularity_slope or 0.0)
    assert slopes[0] < -0.9
    assert slopes[1] > -0.6


def test_the_header_tells_the_period() -> None:
    header = WORKLOADS["chatbot"].generate(Demand(duration_s=100, arrivals="drift:50")).header
    assert header.parameters["arrivals"] == "drift"
    assert header.parameters["drift_period_s"] == 50
    assert header.provenance.adapter_source == "drawn"


@pytest.mark.parametrize("period_s", [0.0, 0.5, math.inf, math.nan])
def test_bad_periods_are_refused(period_s: float) -> None:
    with pytest.raises(LibraError, match="PERIOD_S is 1 s or longer"):
        Drift(period_s)
