"""Adapters that come and go in a whole engine, simulated and real."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines import POLICIES
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.holding import AdapterInUse
from libra.engine.build import CacheSizes
from libra.engine.build_real import build_real_engine
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.link import Transfer
from libra.engine.replay import replay
from libra.engine.sequence import SamplingParams, SequenceState
from libra.errors import LibraError
from libra.model.adapter_store import AdapterStore
from libra.model.llama import load_model
from libra.request import Request
from libra.spec import AdapterSpec
from tests.libra.builders import build_engine, request
from tests.libra.loads import session_load
from tests.tiny_models import TinyModel

BLOCK_TOKENS = 8
PROMPT = (3, 1, 4, 1, 5, 9, 2, 6, 5)


@pytest.mark.parametrize("name", ["fastlibra", "vllm-offload", "slora", "sglang"])
def test_a_simulated_engine_serves_an_adapter_that_came_late(name: str) -> None:
    policy = POLICIES[name] if POLICIES[name].adapter_share is None else replace(POLICIES[name], adapter_share=0.3)
    engine = build_engine(policy, hbm_blocks=40)
    replay(engine, session_load(20, ["a0", "a1", None], seed=1))
    engine.add_adapter(AdapterSpec("late", 1))
    start_s = engine.clock.now()
    later = [
        replace(r, id=100 + r.id, arrival_s=start_s + r.arrival_s) for r in session_load(20, ["late", "a0"], seed=2)
    ]
    records = replay(engine, later).records
    assert {record.status for record in records} == {"finished"}
    first = next(record for record in records if record.adapter == "late")
    assert first.adapter_tier == "disk"
    engine.remove_adapter("late")
    engine.manager.check()
    assert engine.submit(request(999, adapter="late")).state is SequenceState.REJECTED


def test_an_adapter_with_requests_stays() -> None:
    engine = build_engine(FASTLIBRA)
    engine.submit(request(1, adapter="a1"))
    with pytest.raises(AdapterInUse):
        engine.remove_adapter("a1")
    with pytest.raises(LibraError, match="unknown adapter 'a7'"):
        engine.remove_adapter("a7")


@pytest.fixture
def real(tiny_model: TinyModel, tmp_path: Path) -> tuple[Engine, AdapterStore, Path]:
    """A real engine with two adapters at home on disk, in a directory of their own."""
    torch.set_num_threads(1)
    model = load_model(tiny_model.directory)
    store = AdapterStore(model.spec, BLOCK_TOKENS, model.dtype)
    for name in ("adapter-00", "adapter-01"):
        store.add(Path(shutil.copytree(tiny_model.adapters[name], tmp_path / name)))
    config = EngineConfig(block_tokens=BLOCK_TOKENS)
    # No room for an adapter in host memory: every load is one from disk.
    engine = build_real_engine(FASTLIBRA, model, store, list(store), CacheSizes(100, 1), config)
    return engine, store, tmp_path


def greedy(engine: Engine, adapter: str | None, number: int = 0) -> list[int]:
    wanted = Request(number, engine.clock.now(), adapter, 6, prompt_token_ids=PROMPT)
    sequence = engine.submit(wanted, SamplingParams())
    while engine.scheduler.has_work:
        engine.step()
    assert sequence.state is SequenceState.FINISHED
    return sequence.tokens[len(PROMPT) :].tolist()


def test_other_weights_under_an_old_name_compute_what_they_should(
    real: tuple[Engine, AdapterStore, Path], tiny_model: TinyModel
) -> None:
    engine, store, _ = real
    expected = {name: greedy(engine, name) for name in ("adapter-00", "adapter-01", None)}
    assert len({tuple(tokens) for tokens in expected.values()}) == 3
    for source in ("adapter-01", "adapter-00", "adapter-01"):
        engine.add_adapter(store.add(tiny_model.adapters[source], "guest"))
        assert greedy(engine, "guest") == expected[source]
        engine.remove_adapter("guest")
        store.remove("guest")
    engine.manager.check()
    engine.manager.memory.link.close()


def test_a_lost_file_ends_its_requests_and_no_others(real: tuple[Engine, AdapterStore, Path]) -> None:
    engine, _, directory = real
    failed: list[Transfer] = []
    engine.on_failed_load = failed.append
    shutil.rmtree(directory / "adapter-01")
    wanted = [
        engine.submit(Request(n, engine.clock.now(), f"adapter-0{n % 2}", 6, prompt_token_ids=PROMPT), SamplingParams())
        for n in range(6)
    ]
    while engine.scheduler.has_work:
        engine.step()
    assert [sequence.record.status for sequence in wanted] == ["finished", "failed"] * 3
    assert "adapter_model.safetensors" in wanted[1].record.reason
    assert [load.adapter_id for load in failed] == ["adapter-01"]
    engine.manager.check()
    engine.manager.memory.link.close()


def test_a_replay_stops_at_a_lost_file(real: tuple[Engine, AdapterStore, Path]) -> None:
    engine, _, directory = real
    shutil.rmtree(directory / "adapter-00")
    with pytest.raises(LibraError, match="adapter-00"):
        replay(engine, [request(1, adapter="adapter-00"), request(2, adapter="adapter-01")])
    engine.manager.memory.link.close()


def test_salts_do_not_share() -> None:
    engine = build_engine(FASTLIBRA, hbm_blocks=64)
    salts = ["x", "x", "y", None, None]
    for number, salt in enumerate(salts):
        engine.submit(replace(request(number, range(20), arrival_s=engine.clock.now()), cache_salt=salt))
        while engine.scheduler.has_work:
            if not engine.step():
                engine.clock.advance_to(engine.next_event_s())
    assert [record.hbm_hit_tokens for record in engine.records] == [0, 16, 0, 0, 16]
