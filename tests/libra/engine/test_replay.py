"""Replays of requests that wait for others, and of an engine that has lost some."""

from dataclasses import replace

import pytest

from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.record import RequestRecord
from libra.engine.replay import STUCK_S, replay
from libra.request import Request
from tests.libra.builders import BLOCK_TOKENS, PROFILE, adapters, build_engine
from tests.libra.loads import session_load
from tests.libra.variants import VARIANTS

STEP_S = 0.01
EXACT_STEPS = replace(PROFILE, flops_per_s=1e30, memory_bytes_per_s=1e30, step_overhead_s=STEP_S)


def asks(
    identifier: int, *after: int, arrival_s: float = 0.0, delay_s: float = 0.0, prompt: int = 3, output: int = 2
) -> Request:
    """A request to the base model: one step to its first token, one more for each further one."""
    tokens = tuple(range(prompt))
    return Request(identifier, arrival_s, None, output, prompt_token_ids=tokens, task="t", after=after, delay_s=delay_s)


def engine_for(jump: bool = True, hbm_blocks: int = 40) -> Engine:
    config = EngineConfig(block_tokens=BLOCK_TOKENS, jump=jump)
    return build_engine(VARIANTS["fastlibra"], hbm_blocks, 80, config=config, profile=EXACT_STEPS)


def times(record: RequestRecord) -> tuple[float, float, float]:
    assert record.first_token_s is not None
    assert record.finish_s is not None
    return round(record.arrival_s, 9), round(record.first_token_s, 9), round(record.finish_s, 9)


@pytest.mark.parametrize("jump", [True, False])
def test_a_fan_out_and_a_join_at_exact_times(jump: bool) -> None:
    load = [
        asks(0, output=10),
        asks(1, 0, delay_s=0.005, output=3),
        asks(2, 0, output=5),
        asks(3, 1, 2, delay_s=0.1, output=2),
        asks(4, arrival_s=0.145, output=1),
    ]
    result = replay(engine_for(jump), load)
    # 1 arrives inside the step that 2 has begun, and joins the next one; 3 waits for 2, the later of its two.
    by_hand = [(0.0, 0.01, 0.1), (0.105, 0.12, 0.14), (0.1, 0.11, 0.15), (0.25, 0.26, 0.27), (0.145, 0.16, 0.16)]
    assert [times(record) for record in result.records] == by_hand
    assert [record.queue_s for record in result.records] == pytest.approx([0.0, 0.005, 0.0, 0.0, 0.005])
    assert {record.task for record in result.records} == {"t"}


def test_what_waits_for_a_rejected_request_is_cancelled_and_counted() -> None:
    load = [asks(0, output=500), asks(1, 0), asks(2, 1), asks(3, output=4)]
    done: list[int] = []
    result = replay(engine_for(), load, on_progress=lambda now_s, num_done: done.append(num_done))
    assert [record.status for record in result.records] == ["rejected", "cancelled", "cancelled", "finished"]
    assert result.complete
    assert done[-1] == 4


@pytest.mark.parametrize("name", ["fastlibra", "vllm", "slora"])
@pytest.mark.parametrize("hbm_blocks", [20, 400])
def test_jumping_equals_stepping_where_turns_wait_for_turns(name: str, hbm_blocks: int) -> None:
    load, latest = [], dict[str | None, int]()
    for wanted in session_load(40, ["a0", "a1", "a2", None], seed=3, mean_gap_s=0.05):
        before = latest.get(wanted.session)
        load.append(wanted if before is None else replace(wanted, after=(before,), delay_s=0.013))
        latest[wanted.session] = wanted.id
    runs = []
    for jump in (True, False):
        config = EngineConfig(block_tokens=BLOCK_TOKENS, jump=jump)
        runs.append(replay(build_engine(VARIANTS[name], hbm_blocks, 80, adapters(1, 2, 1), config), load))
    assert runs[0].records == runs[1].records
    assert runs[0].counters == runs[1].counters
    assert runs[0].timeline == runs[1].timeline
    finished = {record.id: record for record in runs[0].records if record.status == "finished"}
    followers = [wanted for wanted in load if wanted.after and wanted.id in finished]
    assert len(followers) >= 10
    for wanted in followers:
        assert finished[wanted.id].arrival_s == finished[wanted.after[0]].finish_s + 0.013  # type: ignore[operator]


def test_an_engine_that_has_lost_a_request_is_reported_rather_than_waited_for() -> None:
    engine = engine_for()
    engine.scheduler._admit = lambda batch, budget: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"stood still since 2.000 s with 2 requests waiting \(first: 7, 8\)"):
        replay(engine, [asks(7, arrival_s=2.0), asks(8, arrival_s=3.0)])
    assert engine.clock.now() < 3.0 + STUCK_S + engine.manager.policy.max_pass_s + 1.0


def test_an_engine_with_nothing_to_do_may_wait_for_long() -> None:
    result = replay(engine_for(), [asks(0), asks(1, arrival_s=20 * STUCK_S)])
    assert [record.status for record in result.records] == ["finished", "finished"]
