"""Whole runs of the simulated engine under every policy: what must hold for any stream of requests."""

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from libra.cache.policy import CachePolicy
from libra.cache.pool import FREE, RUNNING
from libra.cache.tree import COLUMNS, LEAVING, LOADING
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.record import RunResult
from libra.engine.replay import replay
from libra.engine.sequence import SamplingParams, Sequence, SequenceState
from libra.request import Request, Segment
from tests.libra.builders import BLOCK_TOKENS, PROFILE, adapters, build_engine
from tests.libra.loads import session_load
from tests.libra.variants import VARIANTS

SPECS = adapters(1, 2, 1)
ADAPTERS: list[str | None] = ["a0", "a1", "a2", None]
# HBM and host blocks: hardly anything fits, only HBM is tight, only host memory is, everything fits.
SIZES = {"tight": (20, 12), "tight HBM": (24, 200), "tight host": (60, 6), "roomy": (400, 800)}
# One block in 1, 10 and 80 ms, where a step takes 10 ms.
LINKS = {"fast": 1.0, "even": 0.1, "slow": 0.0125}


def engine_for(policy: CachePolicy, size: str, link: str, **options: Any) -> Engine:
    hbm_blocks, host_blocks = SIZES[size]
    profile = PROFILE.with_link(PROFILE.link_bytes_per_s * LINKS[link])
    config = EngineConfig(block_tokens=BLOCK_TOKENS, **options)
    return build_engine(policy, hbm_blocks, host_blocks, SPECS, config, profile)


def drive(engine: Engine, load: list[Request], limit_s: float) -> list[Sequence]:
    """``replay``, with every invariant checked after every step and an end to waiting."""
    upcoming = list(reversed(load))
    sequences: list[Sequence] = []
    while upcoming or engine.scheduler.has_work:
        while upcoming and upcoming[-1].arrival_s <= engine.clock.now():
            sequences.append(engine.submit(upcoming.pop()))
        next_arrival_s = upcoming[-1].arrival_s if upcoming else float("inf")
        if not engine.step(next_arrival_s):
            engine.clock.advance_to(min(next_arrival_s, engine.next_event_s()))
        engine.manager.check()
        assert engine.clock.now() < limit_s, "requests wait for ever"
    return sequences


def check_parts(sequences: list[Sequence]) -> None:
    """TTFT is the sum of its parts, none of which is negative."""
    for sequence in sequences:
        record = sequence.record
        if record.status != "finished":
            continue
        parts = (record.queue_s, record.adapter_load_s, record.kv_load_s, record.prefill_s)
        assert record.first_token_s is not None
        assert min(parts) >= 0.0
        assert abs(sum(parts) - (record.first_token_s - record.arrival_s)) < 1e-9
        assert record.evict_wait_s <= record.queue_s + 1e-9
        assert record.hbm_hit_tokens + record.host_hit_tokens < record.prompt_tokens
        assert len(record.token_times) == record.output_tokens == sequence.request.output_tokens
        assert record.token_times == sorted(record.token_times)
        assert record.token_times[0] == record.first_token_s
        assert record.token_times[-1] == record.finish_s


def check_passing(sequences: list[Sequence], max_pass_s: float) -> None:
    """Nobody is admitted before an earlier request that has been passed for ``max_pass_s``."""
    admitted = [s for s in sequences if s.record.admitted_s is not None]
    for position, earlier in enumerate(admitted):
        for later in admitted[position + 1 :]:
            if later.record.admitted_s < earlier.record.admitted_s:  # type: ignore[operator]
                assert earlier.first_passed_s is not None
                assert later.record.admitted_s - earlier.first_passed_s < max_pass_s  # type: ignore[operator]


@pytest.mark.parametrize("name", VARIANTS)
@example(seed=0, size="tight", link="slow", gap_s=0.005, max_num_seqs=2, budget=5, max_pass_s=1.0)
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from(list(SIZES)[:3]),
    link=st.sampled_from(list(LINKS)),
    gap_s=st.sampled_from([0.005, 0.05, 0.3]),
    max_num_seqs=st.sampled_from([2, 256]),
    budget=st.sampled_from([5, 16, 2048]),
    max_pass_s=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_every_request_finishes_and_its_record_adds_up(
    name: str, seed: int, size: str, link: str, gap_s: float, max_num_seqs: int, budget: int, max_pass_s: float
) -> None:
    policy = replace(VARIANTS[name], max_pass_s=max_pass_s)
    engine = engine_for(policy, size, link, max_num_seqs=max_num_seqs, max_num_batched_tokens=budget)
    load = session_load(25, ADAPTERS, seed, mean_gap_s=gap_s)
    sequences = drive(engine, load, limit_s=400.0)
    assert {s.state for s in sequences} <= {SequenceState.FINISHED, SequenceState.REJECTED}
    assert sum(s.state is SequenceState.FINISHED for s in sequences) >= 15
    assert len(engine.records) == len(load)
    check_parts(sequences)
    check_passing(sequences, max_pass_s)


def test_room_that_a_lost_claim_gives_back_is_offered_to_those_ahead() -> None:
    """A request claims blocks and pins its adapter, then is refused on asking again: the one ahead needs that slot."""
    config = EngineConfig(block_tokens=BLOCK_TOKENS, max_num_batched_tokens=5)
    policy = replace(VARIANTS["vllm-offload"], max_pass_s=0.1)
    engine = build_engine(policy, 24, 14, SPECS, config, PROFILE.with_link(PROFILE.link_bytes_per_s / 10))
    load = session_load(80, [*ADAPTERS, "a0"], seed=1, mean_gap_s=0.01)
    sequences = drive(engine, load, limit_s=60.0)
    assert {s.state for s in sequences} <= {SequenceState.FINISHED, SequenceState.REJECTED}


# ---- jumping -------------------------------------------------------------------------------------------------------


def differences(jumping: RunResult, stepping: RunResult) -> list[str]:
    """Names of what is not exactly equal; floats too."""
    names = [f"record {a.id}" for a, b in zip(jumping.records, stepping.records, strict=True) if a != b]
    names += [key for key in jumping.counters if jumping.counters[key] != stepping.counters[key]]
    names += [key for key in jumping.timeline if jumping.timeline[key] != stepping.timeline[key]]
    return names


def state_of(engine: Engine) -> dict[str, list[Any]]:
    """The whole tree, node by node, and how many blocks are free. Which ones is left to chance: a save may be taken
    note of a little later."""
    engine.manager.collect()
    memory, tree = engine.manager.memory, engine.manager.memory.tree
    nodes = np.flatnonzero(tree.in_use).tolist()
    state = {column: getattr(tree, column)[nodes].tolist() for column in COLUMNS}
    state["labels"] = [tree.labels[node] for node in nodes]
    return state | {"nodes": nodes, "free": [region.num_free for region in (*memory.hbm.regions, *memory.host.regions)]}


@pytest.mark.parametrize("size", ["tight", "tight HBM", "roomy"])
@pytest.mark.parametrize("name", VARIANTS)
def test_jumping_equals_stepping_exactly(name: str, size: str) -> None:
    cases = [("fast", {}, 1.0), ("even", {"max_num_seqs": 3}, 0.1), ("slow", {"max_num_batched_tokens": 7}, 0.2)]
    for seed, (link, options, max_pass_s) in enumerate(cases):
        policy = replace(VARIANTS[name], max_pass_s=max_pass_s)
        load = session_load(30, ADAPTERS, seed, mean_gap_s=0.03 + 0.1 * seed)
        runs, evictions, steps, states = [], [], [], []
        for jump in (True, False):
            engine = engine_for(policy, size, link, jump=jump, **options)
            engine.manager.memory.evictions = []
            calls = count_calls(engine)
            runs.append(replay(engine, load))
            evictions.append(engine.manager.memory.evictions)
            steps.append(len(calls))
            states.append(state_of(engine))
        assert differences(*runs) == []
        assert evictions[0] == evictions[1]
        assert states[0] == states[1]
        assert steps[0] < steps[1], "nothing was jumped"


@pytest.mark.parametrize("hbm_blocks", [33, 48, 400])
@pytest.mark.parametrize("gap_s", [0.0, 0.07])
def test_jumping_through_full_blocks_equals_stepping_where_several_fill_the_same_block(
    gap_s: float, hbm_blocks: int
) -> None:
    """Twins compute the same tokens: whoever comes second to a block gives up its own and takes the first one's."""
    twins = [Request(n, n * gap_s, "a0", 37, (Segment("text", 0, 9),), output="answer") for n in range(3)]
    load = [*twins, Request(3, 0.3, "a1", 30, (Segment("other", 0, 6),), output="another")]
    runs, states, steps = [], [], []
    for jump in (True, False):
        config = EngineConfig(block_tokens=BLOCK_TOKENS, jump=jump)
        engine = build_engine(VARIANTS["fastlibra"], hbm_blocks, 400, SPECS, config)
        calls = count_calls(engine)
        runs.append(replay(engine, load))
        states.append(state_of(engine))
        steps.append(len(calls))
    assert differences(*runs) == []
    assert states[0] == states[1]
    assert steps[0] < steps[1]


@pytest.mark.parametrize(("hbm_blocks", "most_steps"), [(20, [1, 5, 8, 8, 8, 2]), (11, [1, 1, 4, 4, 4, 4, 4, 4, 4, 2])])
def test_a_jump_goes_through_a_full_block_where_the_next_one_is_free(hbm_blocks: int, most_steps: list[int]) -> None:
    """Each of the two takes nine blocks beside the adapter's two. What a jump may not do is evict, and fill two."""
    policy = replace(VARIANTS["fastlibra"], swapper=None, host_kv_tier=False)
    config = EngineConfig(block_tokens=BLOCK_TOKENS, tick_s=100.0, timeline_s=None)
    engine = build_engine(policy, hbm_blocks, 20, SPECS, config)
    texts = [(Segment(name, 0, 3),) for name in ("first", "second")]
    replay(engine, [Request(0, 0.0, "a0", 32, texts[0], output="one")])
    calls = count_calls(engine)
    replay(engine, [Request(1, 1.0, "a0", 32, texts[1], output="another")])
    assert calls == most_steps


def test_a_sequence_that_sits_out_grows_as_soon_as_an_admission_has_made_that_possible() -> None:
    """The one who asked before the admission is told no; the next step, jumped over or not, asks again."""
    policy = replace(VARIANTS["write-back"], max_pass_s=0.3)
    runs = []
    for jump in (True, False):
        config = EngineConfig(block_tokens=BLOCK_TOKENS, jump=jump)
        engine = build_engine(policy, 24, 14, SPECS, config, PROFILE.with_link(PROFILE.link_bytes_per_s / 80))
        runs.append(replay(engine, session_load(80, [*ADAPTERS, "a0"], seed=2, mean_gap_s=0.2)))
    assert differences(*runs) == []


def count_calls(engine: Engine) -> list[int]:
    calls: list[int] = []
    execute = engine.executor.execute

    def counted(batch, max_steps, until_s):  # type: ignore[no-untyped-def]
        calls.append(max_steps)
        return execute(batch, max_steps, until_s)

    engine.executor.execute = counted  # type: ignore[method-assign]
    return calls


# ---- timeline and counters -----------------------------------------------------------------------------------------


def use_of_every_block(engine: Engine) -> dict[str, int]:
    """What each block of HBM is used for, block by block, and how much history lacks its adapter or prefix."""
    memory, uses = engine.manager.memory, Counter[str]()
    tree = memory.tree
    usable = tree.usable_in_hbm()
    for owner in memory.hbm.owner:
        if owner in (FREE, RUNNING):
            uses["free" if owner == FREE else "running"] += 1
        elif tree.hbm[owner] == LEAVING or (tree.hbm[owner] == LOADING and not tree.is_adapter[owner]):
            uses["in_flight"] += 1
        elif tree.is_adapter[owner]:
            uses["adapter"] += 1
        else:
            uses["running" if tree.pins[owner] else "history"] += 1
            uses["invalid"] += not tree.pins[owner] and not usable[owner]
    return {f"{use}_blocks": uses[use] for use in ("adapter", "history", "running", "in_flight", "free", "invalid")}


@pytest.mark.parametrize("name", VARIANTS)
def test_timeline_accounts_for_every_block_at_every_moment(name: str) -> None:
    config = EngineConfig(block_tokens=BLOCK_TOKENS, timeline_s=0.02)
    engine = build_engine(VARIANTS[name], 24, 14, SPECS, config, PROFILE.with_link(PROFILE.link_bytes_per_s / 10))
    counted: dict[str, list[float]] = {use: [] for use in use_of_every_block(engine)}
    measure = engine.timeline.measure

    def counting(now_s: float, waiting: int, running: int) -> dict[str, float]:
        for use, blocks in use_of_every_block(engine).items():
            counted[use].append(blocks)
        return measure(now_s, waiting, running)

    engine.timeline.measure = counting  # type: ignore[method-assign]
    timeline = replay(engine, session_load(25, ADAPTERS, 1)).timeline
    assert [timeline[use] for use in counted] == list(counted.values())
    assert max(timeline["host_blocks"]) <= 14
    assert len({len(column) for column in timeline.values()}) == 1
    assert (np.diff(timeline["time_s"]) > 0).all()
    if VARIANTS[name].dependency:
        assert max(timeline["invalid_blocks"]) == 0


def test_invalid_kv_is_seen_where_nothing_prevents_it() -> None:
    policy = replace(VARIANTS["vllm-async"], adapter_share=0.35)  # eight of 24 blocks: two of the padded slots
    config = EngineConfig(block_tokens=BLOCK_TOKENS, timeline_s=0.02)
    engine = build_engine(policy, 24, 200, SPECS, config)
    timeline = replay(engine, session_load(40, ADAPTERS, 2)).timeline
    assert max(timeline["invalid_blocks"]) > 0


def test_counters_of_a_run_are_in_the_result() -> None:
    engine = engine_for(VARIANTS["fastlibra"], "tight", "fast")
    result = replay(engine, session_load(30, ADAPTERS, 3), seed=7)
    expected = asdict(engine.manager.memory.counters)
    assert {key: result.counters[key] for key in expected} == expected
    assert (result.policy, result.seed, result.complete) == ("fastlibra", 7, True)
    assert result.counters["num_steps"] == engine.num_steps > 0
    assert result.device.startswith("simulated on")


def test_an_interrupted_replay_keeps_what_it_has_and_says_so() -> None:
    engine = engine_for(VARIANTS["fastlibra"], "roomy", "fast")

    def interrupt(now_s: float, num_done: int) -> None:
        if num_done >= 5:
            raise KeyboardInterrupt

    load = session_load(200, ADAPTERS, 3)
    result = replay(engine, load, on_progress=interrupt)
    statuses = [record.status for record in result.records]
    assert not result.complete
    assert statuses.count("finished") >= 5
    assert "unfinished" in statuses
    assert len(result.records) < len(load)


def test_a_trace_without_recorded_answers_is_filled_the_same_way_every_time() -> None:
    load = [replace(wanted, output=None) for wanted in session_load(10, ADAPTERS, 0)]
    runs = [replay(engine_for(VARIANTS["fastlibra"], "roomy", "fast"), load) for _ in range(2)]
    assert differences(*runs) == []


# ---- ends before the length limit -----------------------------------------------------------------------------------


def generate(sampling: SamplingParams) -> tuple[Engine, Sequence]:
    """One request of up to 20 tokens; the simulated executor yields token 0 whatever is asked of it."""
    engine = engine_for(VARIANTS["fastlibra"], "roomy", "fast")
    wanted = replace(session_load(1, ["a0"])[0], arrival_s=0.0, output=None, output_tokens=20)
    return engine, engine.submit(wanted, sampling)


def run(engine: Engine, until: int, sequence: Sequence) -> None:
    while engine.scheduler.has_work and sequence.num_output_tokens < until:
        if not engine.step():
            engine.clock.advance_to(engine.next_event_s())


@pytest.mark.parametrize(("stops", "min_tokens", "length"), [({0}, 0, 1), ({0}, 3, 4), ({1}, 0, 20), (set(), 0, 20)])
def test_a_stop_token_ends_the_answer(stops: set[int], min_tokens: int, length: int) -> None:
    engine, sequence = generate(SamplingParams(stop_token_ids=frozenset(stops), min_tokens=min_tokens))
    run(engine, 100, sequence)
    assert sequence.state is SequenceState.FINISHED
    assert sequence.num_output_tokens == len(sequence.token_times) == engine.records[0].output_tokens == length
    engine.manager.check()


def test_a_caller_may_end_an_answer_that_runs_and_no_other() -> None:
    engine, sequence = generate(SamplingParams())
    with pytest.raises(ValueError, match="waiting"):
        engine.finish(sequence)
    run(engine, 2, sequence)
    engine.finish(sequence)
    assert [record.status for record in engine.records] == ["finished"]
    assert not engine.scheduler.has_work
    engine.manager.check()


def test_records_and_samples_can_go_elsewhere() -> None:
    engine = engine_for(VARIANTS["fastlibra"], "roomy", "fast", timeline_s=None)
    seen = []
    engine.on_record = seen.append
    drive(engine, session_load(5, ADAPTERS), limit_s=100.0)
    assert len(seen) == 5
    assert engine.records == [] == engine.timeline.columns["time_s"]
