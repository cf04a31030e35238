"""The rule that tells a stable run from a saturated one."""

import pytest

from bench.metrics import MeasureOptions, summarise
from bench.saturation import SaturationRule, judge_saturation
from libra.engine.record import RequestRecord
from tests.bench.fabricate import record, result

NUM_REQUESTS = 400
GAP_S = 0.1


def arrivals_with_waits(wait_s: list[float]) -> list[RequestRecord]:
    """One arrival every 0.1 s, each waiting for its first token as long as told."""
    return [
        record(id=index, arrival_s=index * GAP_S, first_token_s=index * GAP_S + wait, finish_s=index * GAP_S + wait)
        for index, wait in enumerate(wait_s)
    ]


def test_constant_wait_is_stable() -> None:
    verdict = judge_saturation(arrivals_with_waits([0.5] * NUM_REQUESTS), 60.0)
    assert not verdict.saturated
    assert verdict.queue_growth == pytest.approx(0, abs=0.01)


def test_growth_is_the_share_of_the_load_that_piles_up() -> None:
    # What arrives at t is served at 1.25 t: the service keeps up with 80 % of the arrivals.
    verdict = judge_saturation(arrivals_with_waits([0.25 * index * GAP_S for index in range(NUM_REQUESTS)]), 60.0)
    assert verdict.saturated
    assert verdict.queue_growth == pytest.approx(0.2, abs=0.005)


def test_slow_growth_below_the_limit_is_stable() -> None:
    waits = [0.03 * index * GAP_S for index in range(NUM_REQUESTS)]
    assert not judge_saturation(arrivals_with_waits(waits), 60.0).saturated
    assert judge_saturation(arrivals_with_waits(waits), 60.0, SaturationRule(growth_limit=0.01)).saturated


def test_burst_that_is_worked_off_is_stable() -> None:
    waits = [8.0 if 100 <= index < 200 else 0.2 for index in range(NUM_REQUESTS)]
    assert not judge_saturation(arrivals_with_waits(waits), 60.0).saturated


def test_rejecting_requests_is_no_queue_but_never_serving_them_is() -> None:
    records = arrivals_with_waits([0.2] * NUM_REQUESTS)
    for item in records[50:]:
        item.status, item.first_token_s, item.finish_s = "rejected", None, None
    assert not judge_saturation(records, 60.0).saturated
    for item in records[50:]:
        item.status = "unfinished"
    assert judge_saturation(records, 60.0).saturated


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_too_few_requests_are_never_saturated(count: int) -> None:
    assert not judge_saturation(arrivals_with_waits([9.0 * index for index in range(count)]), 60.0).saturated


def test_simultaneous_arrivals_are_never_saturated() -> None:
    records = [record(id=index, first_token_s=index * 1.0) for index in range(50)]
    assert judge_saturation(records, 60.0).queue_growth == 0


def test_one_saturated_seed_makes_the_policy_saturated() -> None:
    growing = [0.25 * index * GAP_S for index in range(NUM_REQUESTS)]
    stable = result(arrivals_with_waits([0.2] * NUM_REQUESTS), duration_s=60.0)
    saturated = result(arrivals_with_waits(growing), duration_s=60.0, seed=1)
    summary = summarise([stable, saturated], MeasureOptions())
    assert summary.saturated
    assert summary.saturated_seeds == (1,)
    assert not summarise([stable]).saturated
