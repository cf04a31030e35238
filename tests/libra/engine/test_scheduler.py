"""Who runs, who waits, who passes whom, and who is sent back."""

from dataclasses import replace

import pytest

from baselines import POLICIES
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import CachePolicy
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.replay import replay
from libra.engine.sequence import Sequence, SequenceState
from libra.request import Request
from tests.libra.builders import BLOCK_TOKENS, PROFILE, adapters, build_engine, request

# Nothing is loaded ahead of need.
NO_SWAPPER = replace(FASTLIBRA, swapper=None)
# So slow that saves and loads span many steps: 100 ms a block.
SLOW = replace(PROFILE, link_bytes_per_s=PROFILE.link_bytes_per_s / 100)


def run(engine: Engine, until: float = 60.0) -> None:
    """Runs until all is done; a queue that never empties fails here instead of hanging."""
    while engine.scheduler.has_work:
        assert engine.clock.now() < until, "requests wait for ever"
        if not engine.step():
            engine.clock.advance_to(engine.next_event_s())
        engine.manager.check()


def step_until_running(engine: Engine, sequence: Sequence) -> None:
    while sequence.state is not SequenceState.RUNNING:
        if not engine.step():
            engine.clock.advance_to(engine.next_event_s())


def small(**options: int) -> EngineConfig:
    return EngineConfig(block_tokens=BLOCK_TOKENS, jump=False, **options)


# ---- batches -------------------------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_budget_is_prefilled_in_chunks() -> None:
    engine = build_engine(FASTLIBRA, config=small(max_num_batched_tokens=8))
    sequence = engine.submit(request(prompt=range(20), adapter=None))
    computed = []
    while engine.step():
        computed.append(sequence.num_computed)
    assert computed[:2] == [8, 16]
    assert len(computed) == 3
    assert sequence.state is SequenceState.FINISHED


def test_decodes_come_before_prefills_within_the_budget() -> None:
    engine = build_engine(FASTLIBRA, config=small(max_num_batched_tokens=8))
    first = engine.submit(request(0, prompt=[1, 2, 3], output=[1] * 9, adapter=None))
    engine.step()
    second = engine.submit(request(1, prompt=range(20, 36), adapter=None))
    batch = engine.scheduler.schedule()
    assert batch.decode == [first]
    assert [(chunk.sequence, chunk.num_tokens) for chunk in batch.prefill] == [(second, 7)]


def test_no_more_sequences_run_than_allowed() -> None:
    engine = build_engine(FASTLIBRA, config=small(max_num_seqs=2))
    for number in range(5):
        engine.submit(request(number, prompt=[number] * 3, output=[1] * 4, adapter=None))
    most = 0
    while engine.step():
        most = max(most, len(engine.scheduler.running))
    assert most == 2
    assert [record.status for record in engine.records] == ["finished"] * 5


# ---- loads ---------------------------------------------------------------------------------------------------------


def test_a_ready_request_passes_one_that_waits_for_its_adapter() -> None:
    engine = build_engine(FASTLIBRA, profile=SLOW, config=small())
    loading = engine.submit(request(0, adapter="a0"))
    ready = engine.submit(request(1, adapter=None))
    engine.step()
    assert loading.state is SequenceState.LOADING
    assert ready.state is SequenceState.FINISHED
    run(engine)
    # Two blocks at 100 ms each; the padding of the last block is not sent.
    assert loading.record.adapter_load_s == pytest.approx(0.175, abs=1e-9)
    assert loading.record.queue_s == 0.0


def test_a_blocking_load_stalls_everybody_and_is_counted() -> None:
    engine = build_engine(replace(POLICIES["vllm"], adapter_share=0.5), profile=SLOW, config=small())
    running = engine.submit(request(0, prompt=[1, 2], output=[1] * 8, adapter=None))
    engine.step()
    before_s = engine.clock.now()
    cold = engine.submit(request(1, adapter="a0", arrival_s=before_s))
    engine.step()
    assert engine.scheduler.stall_s == pytest.approx(0.175, abs=1e-9)
    assert running.token_times[-1] - before_s > 0.175
    assert cold.record.adapter_load_s == pytest.approx(0.175, abs=1e-9)


def test_an_asynchronous_load_stalls_nobody() -> None:
    engine = build_engine(replace(POLICIES["vllm-async"], adapter_share=0.5), profile=SLOW, config=small())
    running = engine.submit(request(0, prompt=[1, 2], output=[1] * 8, adapter=None))
    engine.step()
    before_s = engine.clock.now()
    engine.submit(request(1, adapter="a0", arrival_s=before_s))
    engine.step()
    assert engine.scheduler.stall_s == 0.0
    assert running.token_times[-1] - before_s < 0.1


# ---- while steps compute, and before they begin --------------------------------------------------------------------


def test_a_load_runs_while_the_step_computes_in_which_its_request_arrived() -> None:
    """A step takes over 10 ms and the adapter 1.75: admitted between steps, the request misses the next one."""
    load = [request(0, output=[1] * 8, adapter=None), request(1, adapter="a0", arrival_s=0.002)]
    first_token_s = {}
    for policy in (NO_SWAPPER, replace(NO_SWAPPER, admits="at_any_time")):
        record = replay(build_engine(policy, config=small()), load).records[1]
        assert record.first_token_s is not None
        parts = record.queue_s + record.adapter_load_s + record.kv_load_s + record.prefill_s
        assert parts == pytest.approx(record.first_token_s - record.arrival_s)
        first_token_s[policy.admits] = record.first_token_s
        if policy.admits == "at_any_time":
            assert record.admitted_s == 0.002
            assert record.adapter_load_s == pytest.approx(0.00175, abs=1e-9)
    assert first_token_s["between_steps"] - first_token_s["at_any_time"] > 0.01


def test_nobody_is_admitted_ahead_for_whom_the_next_step_has_no_tokens() -> None:
    policy = replace(NO_SWAPPER, admits="at_any_time")
    engine = build_engine(policy, hbm_blocks=40, config=small(max_num_batched_tokens=8))
    engine.submit(request(0, prompt=range(40), adapter=None))
    engine.step()
    waits = engine.submit(request(1, adapter="a0", arrival_s=engine.clock.now()))
    engine.scheduler.admit_ahead()
    assert waits.state is SequenceState.WAITING


def cold_beside_running(policy: CachePolicy, host_blocks: int = 64, num_running: int = 1) -> tuple[Engine, Sequence]:
    """Running requests, and a step in which another has asked for an adapter that is not there."""
    engine = build_engine(policy, host_blocks=host_blocks, config=small())
    for number in range(num_running):
        engine.submit(request(number, output=[1] * 8, adapter=None))
    engine.step()
    cold = engine.submit(request(num_running, adapter="a0", output=[1] * 3, arrival_s=engine.clock.now()))
    engine.step()
    return engine, cold


def test_a_step_waits_for_loads_that_end_soon() -> None:
    engine, cold = cold_beside_running(replace(NO_SWAPPER, awaits_loads=True))
    assert cold.num_output_tokens == 1
    assert engine.scheduler.stall_s == pytest.approx(0.00175, abs=1e-9)
    engine.manager.check()


def test_a_step_waits_for_nobody_where_that_costs_the_others_more_than_it_saves() -> None:
    """A step takes over 10 ms: a wait of 1.75 saves the one who joins over 9, and costs six others more."""
    for num_others, joins in ((5, True), (6, False)):
        engine, cold = cold_beside_running(replace(NO_SWAPPER, awaits_loads=True), num_running=num_others)
        assert (cold.num_output_tokens == 1) is joins
        assert (engine.scheduler.stall_s > 0.0) is joins


def test_a_step_waits_neither_for_the_disk_nor_where_the_policy_does_not_say_so() -> None:
    for awaits_loads, host_blocks in ((True, 1), (False, 64)):
        engine, cold = cold_beside_running(replace(NO_SWAPPER, awaits_loads=awaits_loads), host_blocks)
        assert cold.state is SequenceState.LOADING
        assert engine.scheduler.stall_s == 0.0


# ---- preemption ----------------------------------------------------------------------------------------------------


def test_a_preempted_sequence_reuses_its_full_blocks() -> None:
    engine = build_engine(FASTLIBRA, config=small())
    sequence = engine.submit(request(prompt=range(10), output=range(8), adapter=None))
    while sequence.num_computed < 13:
        engine.step()
    engine.scheduler.preempt(sequence)
    assert sequence.num_computed == 0
    batch = engine.scheduler.schedule()
    assert sequence.num_computed == 12
    assert [chunk.num_tokens for chunk in batch.prefill] == [2]
    assert sequence.record.preemptions == 1


def test_a_preempted_sequence_with_all_but_its_last_token_cached_decodes_at_once() -> None:
    engine = build_engine(FASTLIBRA, config=small())
    sequence = engine.submit(request(prompt=range(10), output=range(8), adapter=None))
    while sequence.num_computed < 12:
        engine.step()
    engine.scheduler.preempt(sequence)
    batch = engine.scheduler.schedule()
    assert sequence.num_computed == 12
    assert sequence.num_tokens == 13
    assert batch.decode == [sequence]


def test_the_youngest_is_preempted_when_no_block_is_to_be_had() -> None:
    engine = build_engine(FASTLIBRA, hbm_blocks=4, config=small(), specs=[])
    older = engine.submit(request(0, prompt=[1] * 4, output=[1] * 8, adapter=None))
    younger = engine.submit(request(1, prompt=[2] * 4, output=[2] * 8, adapter=None))
    while not engine.scheduler.num_preemptions:
        engine.step()
    assert younger.state is SequenceState.WAITING
    assert engine.scheduler.waiting[0] is younger
    run(engine)
    assert older.record.preemptions == 0
    assert [record.status for record in engine.records] == ["finished", "finished"]
    assert older.record.finish_s is not None
    assert younger.record.finish_s is not None
    assert older.record.finish_s < younger.record.finish_s


def test_waiting_for_saves_after_the_first_token_is_no_part_of_ttft() -> None:
    engine = build_engine(FASTLIBRA, hbm_blocks=8, profile=SLOW, config=small(), specs=[])
    engine.submit(request(0, prompt=range(50, 70), output=[1], adapter=None))
    run(engine)
    sequence = engine.submit(request(1, prompt=range(8), output=[1] * 4, adapter=None))
    while sequence.num_output_tokens < 2:
        engine.step()
    engine.scheduler.preempt(sequence)
    # Dirty history fills the pool, so that admission has to wait for saves again.
    filler = engine.submit(request(2, prompt=range(70, 74), output=[1], adapter=None))
    engine.scheduler.waiting.rotate(1)
    run(engine)
    for record in (sequence.record, filler.record):
        assert record.evict_wait_s <= record.queue_s + 1e-9


# ---- passing -------------------------------------------------------------------------------------------------------


def test_a_blocked_request_is_passed_for_a_while_and_then_by_nobody() -> None:
    policy = replace(FASTLIBRA, max_pass_s=0.1)
    engine = build_engine(policy, hbm_blocks=10, config=small(), specs=[])
    engine.submit(request(0, prompt=[9] * 16, output=[1] * 20, adapter=None))
    engine.step()
    large = engine.submit(request(1, prompt=range(28), adapter=None))
    started: list[float] = []
    for number in range(2, 40):
        little = engine.submit(request(number, prompt=[number], adapter=None, arrival_s=engine.clock.now()))
        engine.step()
        if little.record.admitted_s is not None and large.record.admitted_s is None:
            started.append(little.record.admitted_s)
        if large.record.admitted_s is not None:
            break
    assert large.first_passed_s is not None
    assert started
    assert max(started) < large.first_passed_s + 0.1
    run(engine)
    assert {record.status for record in engine.records} == {"finished"}


def test_claims_behind_a_request_that_was_passed_enough_do_not_starve_it() -> None:
    """The small one behind waits for its saves with blocks reserved that the large one, first in line, needs."""
    policy = replace(FASTLIBRA, max_pass_s=0.1, swapper=None)
    engine = build_engine(policy, hbm_blocks=14, profile=SLOW, config=small(), specs=[])
    engine.submit(request(0, prompt=range(28), output=[1], adapter=None))  # 7 blocks of dirty history
    run(engine)
    engine.submit(request(1, prompt=[9] * 8, output=[1] * 12, adapter=None))  # runs in 3 blocks and more
    engine.step()
    large = engine.submit(request(2, prompt=range(30, 78), adapter=None))  # 12 blocks
    engine.submit(request(3, prompt=[5], output=[1], adapter=None))  # passes the large one
    claimant = engine.submit(request(4, prompt=range(60, 83), adapter=None))  # 6 blocks, of which 2 must be saved first
    engine.step()
    assert large.first_passed_s is not None
    assert engine.manager.claims[claimant].blocks == [6, 0]
    run(engine)
    assert claimant.state is large.state is SequenceState.FINISHED
    assert large.record.admitted_s is not None
    assert claimant.record.admitted_s is not None
    assert large.record.admitted_s < claimant.record.admitted_s


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_request_that_can_never_fit_is_refused_at_once_and_one_that_just_fits_runs(name: str) -> None:
    policy = POLICIES[name]
    engine = build_engine(policy, hbm_blocks=20)
    # Three slots of two blocks, a fifth of HBM for adapters, or the adapter's two blocks.
    room = 14 if policy.max_adapters else 16 if policy.adapter_share else 18
    fits = engine.submit(request(0, prompt=range(room * BLOCK_TOKENS), output=[1]))
    # The last token is never fed back: it needs no room.
    too_long = engine.submit(request(1, prompt=range(room * BLOCK_TOKENS), output=[1, 2]))
    assert too_long.state is SequenceState.REJECTED
    assert f"needs {room + 1} KV blocks where there is room for {room}" in too_long.record.reason
    assert too_long.record.finish_s is None
    run(engine)
    assert fits.state is SequenceState.FINISHED


@pytest.mark.parametrize(("prompt", "output"), [((), (1,)), ((1, 2), ())])
def test_a_request_without_prompt_or_output_is_refused(prompt: tuple[int, ...], output: tuple[int, ...]) -> None:
    engine = build_engine(FASTLIBRA)
    sequence = engine.submit(request(prompt=prompt, output=output))
    assert sequence.state is SequenceState.REJECTED
    assert "at least one" in sequence.record.reason


def test_an_unknown_adapter_is_refused() -> None:
    engine = build_engine(FASTLIBRA)
    sequence = engine.submit(request(adapter="nobody"))
    assert sequence.state is SequenceState.REJECTED
    assert "nobody" in sequence.record.reason


# ---- aborts --------------------------------------------------------------------------------------------------------


def test_aborting_in_every_state_gives_everything_back() -> None:
    engine = build_engine(FASTLIBRA, profile=SLOW, config=small(max_num_seqs=2))
    running = engine.submit(request(0, prompt=range(9), output=[1] * 9, adapter=None))
    loading = engine.submit(request(1, adapter="a0"))
    waiting = engine.submit(request(2, adapter="a1"))
    engine.step()
    assert [s.state.value for s in (running, loading, waiting)] == ["running", "loading", "waiting"]
    for sequence in (running, loading, waiting):
        engine.abort(sequence)
        engine.manager.check()
        assert sequence.state is SequenceState.ABORTED
    assert not engine.scheduler.has_work
    assert [record.status for record in engine.records] == ["aborted"] * 3
    memory = engine.manager.memory
    assert memory.reserved == [0, 0]
    # Two blocks of history and the two that the adapter's load still fills are not free.
    assert memory.hbm.num_free == 16 - 2 - 2


def test_aborting_twice_changes_nothing() -> None:
    engine = build_engine(FASTLIBRA)
    sequence = engine.submit(request())
    engine.abort(sequence)
    engine.abort(sequence)
    assert len(engine.records) == 1


def test_aborting_a_claimant_lets_the_next_one_in() -> None:
    policy = replace(FASTLIBRA, swapper=None)
    engine = build_engine(policy, hbm_blocks=8, profile=SLOW, config=small(), specs=[])
    engine.submit(request(0, prompt=range(28), output=[1], adapter=None))
    run(engine)
    claimant = engine.submit(request(1, prompt=range(50, 70), adapter=None))
    other = engine.submit(request(2, prompt=range(70, 90), adapter=None))
    engine.step()
    assert engine.manager.claims[claimant].blocks[0] == 5
    engine.abort(claimant)
    run(engine)
    assert other.state is SequenceState.FINISHED


# ---- sharing -------------------------------------------------------------------------------------------------------


def test_requests_at_the_same_time_share_the_blocks_of_their_prefix() -> None:
    engine = build_engine(FASTLIBRA, config=small())
    first = engine.submit(request(0, prompt=[*range(8), 20], output=[1] * 9, adapter=None))
    engine.step()
    second = engine.submit(request(1, prompt=[*range(8), 30], output=[1] * 9, adapter=None))
    engine.step()
    assert second.block_table[:2] == first.block_table[:2]
    assert second.block_table[2] != first.block_table[2]
    assert second.record.hbm_hit_tokens == 8


def test_twins_end_up_with_one_copy() -> None:
    engine = build_engine(FASTLIBRA, config=small(), specs=[])
    twins = [engine.submit(request(number, prompt=range(11), output=[1] * 6, adapter=None)) for number in range(2)]
    engine.step()
    assert twins[0].block_table[:2] == twins[1].block_table[:2]
    assert twins[0].block_table[2] != twins[1].block_table[2]
    # Two shared blocks and a private tail each.
    assert engine.manager.memory.hbm.num_free == 16 - 4
    engine.manager.check()


def test_no_prefix_is_shared_between_adapters() -> None:
    engine = build_engine(FASTLIBRA, config=small())
    first = engine.submit(request(0, prompt=range(9), adapter="a0"))
    run(engine)
    second = engine.submit(request(1, prompt=range(9), adapter="a1"))
    third = engine.submit(request(2, prompt=range(9), adapter=None))
    again = engine.submit(request(3, prompt=range(9), adapter="a0"))
    run(engine)
    hits = [sequence.record.hbm_hit_tokens for sequence in (first, second, third, again)]
    assert hits == [0, 0, 0, 8]


def test_a_policy_that_discards_history_shares_nothing() -> None:
    engine = build_engine(POLICIES["slora"], config=small())
    records = []
    for number in range(3):
        records.append(engine.submit(request(number, prompt=range(9))).record)
        run(engine)
    assert [record.hbm_hit_tokens for record in records] == [0, 0, 0]
    engine.step()
    assert engine.manager.memory.hbm.num_free == 16


# ---- the record ----------------------------------------------------------------------------------------------------


def test_the_base_model_needs_no_adapter() -> None:
    engine = build_engine(FASTLIBRA, specs=[])
    result = replay(engine, [Request(0, 0.5, None, 2, prompt_token_ids=(1, 2, 3))])
    record = result.records[0]
    assert (record.status, record.adapter_tier, record.adapter_load_s) == ("finished", "base", 0.0)
    assert len(record.token_times) == 2


def test_the_tier_of_the_adapter_is_where_it_was_when_first_considered() -> None:
    # Host memory for one adapter of two: the other comes from disk.
    policy = replace(FASTLIBRA, swapper=None)
    engine = build_engine(policy, host_blocks=2, specs=adapters(1, 1), config=small())
    tiers = []
    for number, adapter in enumerate(["a0", "a1", "a1"]):
        sequence = engine.submit(request(number, prompt=[number], adapter=adapter, arrival_s=engine.clock.now()))
        run(engine)
        tiers.append(sequence.record.adapter_tier)
    assert tiers == ["host", "disk", "hbm"]
