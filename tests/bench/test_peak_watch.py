"""What a run is short of: who waits for which, and that watching changes nothing."""

import math
from dataclasses import replace

import pytest

from bench.peak_watch import COLUMNS, Watch
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.libra_policy import LIBRA
from libra.cache.policy import CachePolicy
from libra.engine.config import EngineConfig
from libra.engine.record import RequestRecord
from libra.engine.replay import replay
from libra.request import Request
from tests.libra.builders import BLOCK_TOKENS, PROFILE, build_engine, request

CONFIG = EngineConfig(block_tokens=BLOCK_TOKENS)
BURST = [request(n, prompt=[n] * 30, output=[1] * 40, adapter=f"a{n % 3}") for n in range(20)]
WAITING = ("waiting_saves", "waiting_hbm", "waiting_seats", "waiting_tokens", "waiting_turn")


def watched(
    requests: list[Request],
    policy: CachePolicy = FASTLIBRA,
    hbm_blocks: int = 1000,
    config: EngineConfig = CONFIG,
    until_s: float = math.inf,
) -> tuple[dict[str, float], list[RequestRecord]]:
    engine = build_engine(policy, hbm_blocks=hbm_blocks, host_blocks=1000, config=config)
    watch = Watch(engine, PROFILE.as_dict(), 0.0, until_s)
    records = replay(engine, requests, on_progress=watch).records
    return watch.averages(), records


@pytest.mark.parametrize("policy", [FASTLIBRA, LIBRA], ids=lambda policy: policy.name)
def test_watching_changes_nothing(policy: CachePolicy) -> None:
    apart = [replace(one, arrival_s=0.013 * one.id) for one in BURST]
    unwatched = replay(build_engine(policy, hbm_blocks=60, host_blocks=1000, config=CONFIG), apart)
    found, records = watched(apart, policy, hbm_blocks=60)
    assert records == unwatched.records
    assert tuple(found) == COLUMNS


def test_what_waits_adds_up_to_the_time_in_the_queue() -> None:
    # The last of a prompt's blocks has room for the answer: nobody is preempted.
    short = [replace(one, output_tokens=2, output_token_ids=(1, 1)) for one in BURST]
    found, records = watched(short, hbm_blocks=60)
    ends = [record.finish_s or 0.0 for record in records]
    assert found["waiting"] > 0
    assert found["preemptions_per_s"] == 0
    assert sum(found[name] for name in WAITING) == pytest.approx(found["waiting"])
    # Little's law: a burst has been submitted before the first step.
    assert found["waiting"] * max(ends) == pytest.approx(sum(record.queue_s for record in records))
    in_batch = sum((record.finish_s or 0.0) - record.queue_s for record in records)
    assert found["admitted"] * max(ends) == pytest.approx(in_batch)


def test_a_small_cache_is_what_its_requests_wait_for() -> None:
    found, _ = watched(BURST, replace(FASTLIBRA, max_pass_s=1000.0), hbm_blocks=60)
    assert found["waiting_hbm"] + found["waiting_saves"] > 0.9 * found["waiting"]
    assert found["held"] > 0.5
    assert 0 < found["held_by_adapters"] < found["held"] <= 1
    assert found["seats_taken"] == 0


def test_who_may_not_pass_waits_for_its_turn() -> None:
    in_order, _ = watched(BURST, replace(FASTLIBRA, max_pass_s=0.0), hbm_blocks=60)
    assert in_order["waiting_turn"] > in_order["waiting_hbm"] + in_order["waiting_saves"] > 0
    assert in_order["waiting_tokens"] == in_order["waiting_seats"] == 0


def test_one_seat_is_what_the_others_wait_for() -> None:
    found, _ = watched(BURST, config=replace(CONFIG, max_num_seqs=1))
    assert found["waiting_seats"] == pytest.approx(found["waiting"])
    assert found["seats_taken"] > 0.9
    assert found["admitted"] <= 1


def test_few_tokens_a_step_are_what_prompts_wait_for() -> None:
    # The adapter is there: otherwise all are admitted while it loads.
    burst = [replace(one, adapter="a0", arrival_s=10.0) for one in BURST]
    found, _ = watched([request(100), *burst], config=replace(CONFIG, max_num_batched_tokens=16))
    assert found["waiting_tokens"] == pytest.approx(found["waiting"])
    assert found["waiting"] > 0
    assert found["tokens_per_step"] <= 16


def test_a_step_is_counted_with_its_tokens_and_what_it_uses() -> None:
    found, (record,) = watched([request(prompt=range(30), output=[1] * 40)])
    assert found["tokens_per_step"] == pytest.approx((30 + 39) / 40)
    assert found["prompt_tokens_per_step"] == pytest.approx(30 / 40)
    computed_s = (record.finish_s or 0.0) - record.adapter_load_s
    assert found["step_ms"] == pytest.approx(1000 * computed_s / 40)
    assert found["computing"] == pytest.approx(computed_s / (record.finish_s or math.inf))
    assert 0 < max(found["flops_used"], found["bandwidth_used"]) < 1
    assert found["link_in_used"] > 0


def test_only_the_time_watched_counts() -> None:
    late = [request(0), replace(request(1, prompt=[5] * 30, output=[1] * 40), arrival_s=100.0)]
    until_end, _ = watched(late)
    until_first, _ = watched(late, until_s=50.0)
    assert until_first["tokens_per_step"] == pytest.approx(3.0)
    assert until_end["tokens_per_step"] == pytest.approx((3 + 30 + 39) / 41)


def test_an_engine_that_is_watched_already_is_refused() -> None:
    engine = build_engine(FASTLIBRA)
    Watch(engine, PROFILE.as_dict(), 0.0, 1.0)
    with pytest.raises(ValueError, match="only simulated engines"):
        Watch(engine, PROFILE.as_dict(), 0.0, 1.0)


def test_a_watched_engine_knows_that_it_admits_while_a_step_computes() -> None:
    engine = build_engine(LIBRA, hbm_blocks=60, host_blocks=1000, config=CONFIG)
    admits = engine.executor.while_busy
    assert admits is not None
    Watch(engine, {}, 0.0, 1.0)
    assert engine.executor.while_busy == admits
