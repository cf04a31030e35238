"""Requests that start before their adapter is in HBM: the cost of their step, and whole runs."""

from dataclasses import replace

import pytest

from baselines import POLICIES
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import CachePolicy
from libra.engine.cold_start import LAYER_GROUPS, ColdAdapter, first_layer_s, step_end_s
from libra.engine.engine import Engine
from libra.engine.link import Arrival
from libra.engine.sequence import SequenceState
from tests.libra.builders import BLOCK_TOKENS, PROFILE, EngineConfig, adapters, build_engine, request

BY_LAYER = replace(FASTLIBRA, adapter_load="by_layer")
ASSISTED = POLICIES["caraserve"]
# A block takes 100 ms: an adapter of two blocks, the second of which is half padding (see test_scheduler), 175 ms.
SLOW = replace(PROFILE, link_bytes_per_s=PROFILE.link_bytes_per_s / 100)
LOAD_S = 0.175

# ---- the cost of a step --------------------------------------------------------------------------------------------


def test_by_layer_the_slowest_of_computing_the_first_layer_and_the_last_decides() -> None:
    # A step of 8 s over 4 layers.
    def end(first_s: float, last_s: float) -> float:
        return step_end_s(100.0, 8.0, 4, [ColdAdapter(Arrival(first_s, last_s), None)])

    assert end(90.0, 98.0) == 108.0  # all there before
    assert end(99.0, 103.0) == 108.0  # each layer there when its turn comes
    assert end(101.0, 105.0) == 110.0  # the first layer is there at 102: the step begins then
    assert end(96.0, 116.0) == 118.0  # the last layer is there at 116, and takes 2 s


def test_by_layer_agrees_with_walking_through_the_layers() -> None:
    for first_s, last_s, step_s, layers in (
        (0.3, 5.0, 2.0, 7),
        (0.0, 0.1, 2.0, 7),
        (1.0, 1.5, 0.1, 32),
        (-3.0, 4.0, 1, 2),
    ):
        arrival, at_s = Arrival(first_s, last_s), 0.0
        for layer in range(layers):
            there_s = first_s + (layer + 1) * (last_s - first_s) / layers
            at_s = max(at_s, there_s) + step_s / layers
        assert step_end_s(0.0, step_s, layers, [ColdAdapter(arrival, None)]) == pytest.approx(at_s)


def test_assisted_groups_are_computed_on_the_cpu_until_their_weights_are_there() -> None:
    group_s, product_s = 1.0, 3.0

    def end(first_s: float, last_s: float, num_adapters: int = 1) -> float:
        cold = [ColdAdapter(Arrival(first_s, last_s), LAYER_GROUPS * product_s)] * num_adapters
        return step_end_s(0.0, LAYER_GROUPS * group_s, 32, cold)

    assert LAYER_GROUPS == 8
    assert end(-9.0, -1.0) == 8.0
    assert end(1000.0, 2000.0) == 24.0  # never there: all on the CPU
    assert end(1000.0, 2000.0, num_adapters=2) == 48.0  # the cores are shared
    # Group 1 comes last, at 8 s, and takes 3 s on the CPU. Groups 2 and 3, there at 1 and 2 s, and all others follow.
    assert end(0.0, 8.0) == 10.0
    # Group 2 is there at 4 s: waiting 1 s for it beats 3 s on the CPU. The others come a second apart from then on.
    assert end(3.0, 11.0) == 3.0 + 1.0 + 7.0


def test_waiting_is_never_worse_than_the_cpu() -> None:
    arrival = Arrival(0.0, 1.0)
    for product_s in (0.0, 0.1, 10.0, 1e9):
        assisted = step_end_s(0.0, 2.0, 4, [ColdAdapter(arrival, product_s)])
        assert 2.0 <= assisted <= 1.0 + 2.0


def test_the_first_layer_of_a_load() -> None:
    assert first_layer_s(Arrival(2.0, 10.0), 4) == 4.0


# ---- whole runs ----------------------------------------------------------------------------------------------------


def run_one(policy: CachePolicy, prompt: int = 3, output: int = 4) -> tuple[Engine, float, float]:
    """One cold request: (engine, first token, end)."""
    engine = build_engine(policy, profile=SLOW, config=EngineConfig(block_tokens=BLOCK_TOKENS))
    sequence = engine.submit(request(0, prompt=range(prompt), output=[1] * output))
    while engine.scheduler.has_work:
        if not engine.step():
            engine.clock.advance_to(engine.next_event_s())
        engine.manager.check()
    record = sequence.record
    assert record.first_token_s is not None
    assert record.finish_s is not None
    parts = record.queue_s + record.adapter_load_s + record.kv_load_s + record.prefill_s
    assert parts == pytest.approx(record.first_token_s)
    return engine, record.first_token_s, record.finish_s


def test_by_layer_saves_most_of_a_step() -> None:
    _, whole_s, _ = run_one(FASTLIBRA)
    engine, by_layer_s, _ = run_one(BY_LAYER)
    step_s = whole_s - LOAD_S
    # Two layers: the first of them is computed while the second is loaded.
    assert by_layer_s == pytest.approx(LOAD_S + step_s / 2)
    assert engine.records[0].adapter_load_s == pytest.approx(LOAD_S / 2)


def test_an_assisted_request_has_its_first_token_before_its_adapter_and_decodes_with_it() -> None:
    engine, first_token_s, _ = run_one(ASSISTED)
    assert first_token_s < LOAD_S
    assert engine.records[0].adapter_load_s == 0.0
    gaps = engine.records[0].token_times
    assert gaps[1] > LOAD_S, "decoding waits for the weights"


def test_an_assisted_request_that_waits_for_its_weights_lets_others_decode() -> None:
    engine = build_engine(ASSISTED, profile=SLOW, config=EngineConfig(block_tokens=BLOCK_TOKENS))
    other = engine.submit(request(0, prompt=[1, 2], output=[1] * 12, adapter=None))
    cold = engine.submit(request(1, prompt=[1, 2], output=[1] * 4))
    while engine.scheduler.has_work:
        if not engine.step():
            engine.clock.advance_to(engine.next_event_s())
    assert cold.token_times[0] < LOAD_S < cold.token_times[1]
    assert other.state is SequenceState.FINISHED
    assert other.token_times[-1] < cold.token_times[1]


def test_a_load_that_waits_for_another_starts_late_and_is_known_to() -> None:
    engine = build_engine(BY_LAYER, profile=SLOW, config=EngineConfig(block_tokens=BLOCK_TOKENS), specs=adapters(1, 1))
    first, second = (engine.submit(request(number, adapter=f"a{number}")) for number in range(2))
    engine.step()
    holdings = [engine.manager.holdings[sequence] for sequence in (first, second)]
    arrivals = [holding.arrival for holding in holdings]
    assert [round(a.last_s - a.first_s, 9) for a in arrivals if a is not None] == [LOAD_S, LOAD_S]
    assert holdings[1].starts_s == pytest.approx(LOAD_S + LOAD_S / 2)


def test_slow_links_make_the_cpu_pay_and_fast_ones_do_not() -> None:
    fast = replace(SLOW, link_bytes_per_s=PROFILE.link_bytes_per_s * 100)
    first_tokens = {}
    for name, profile in (("slow", SLOW), ("fast", fast)):
        for policy in (POLICIES["slora"], ASSISTED):
            engine = build_engine(policy, profile=profile, config=EngineConfig(block_tokens=BLOCK_TOKENS))
            sequence = engine.submit(request(0, prompt=range(3)))
            while engine.scheduler.has_work:
                if not engine.step():
                    engine.clock.advance_to(engine.next_event_s())
            first_tokens[name, policy.name] = sequence.token_times[0]
    assert first_tokens["slow", "caraserve"] < 0.5 * first_tokens["slow", "slora"]
    assert first_tokens["fast", "caraserve"] <= first_tokens["fast", "slora"]
