"""The real engine end to end: right tokens whatever the cache does, and the simulator's own decisions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines import POLICIES
from libra.cache.policy import CachePolicy
from libra.engine.build import CacheSizes, build_simulated_engine
from libra.engine.build_real import build_real_engine, find_adapters
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.profile import Profile, datasheet_profile
from libra.engine.replay import replay
from libra.engine.sequence import SamplingParams, Sequence
from libra.errors import LibraError
from libra.model.adapter_store import AdapterStore
from libra.model.llama import LlamaModel, load_model
from libra.request import Request, Segment
from libra.spec import DEVICES, ModelSpec
from tests.libra.builders import tell_future
from tests.libra.model.reference import greedy_tokens
from tests.libra.variants import VARIANTS
from tests.tiny_models import TinyModel

BLOCK_TOKENS = 8
OUTPUT_TOKENS = 12


@pytest.fixture(scope="module")
def network(tiny_model: TinyModel) -> LlamaModel:
    torch.set_num_threads(1)
    return load_model(tiny_model.directory)


@pytest.fixture(scope="module")
def store(tiny_model: TinyModel, network: LlamaModel) -> AdapterStore:
    adapters = AdapterStore(network.spec, BLOCK_TOKENS, network.dtype)
    for path in find_adapters(tiny_model.directory / "adapters"):
        adapters.add(path)
    return adapters


def slow_profile(model: ModelSpec) -> Profile:
    """A device on which loads take about as long as steps, so that they matter to the schedule."""
    return datasheet_profile(DEVICES["a10"], model, 1).with_link(2e7)


def sizes_for(store: AdapterStore, model: ModelSpec, policy: CachePolicy, host_blocks: int) -> CacheSizes:
    """Room for about two adapters and two requests, or for one slot and two requests: everything else is swapped."""
    largest = max(spec.num_blocks(model, BLOCK_TOKENS) for spec in store.values())
    return CacheSizes(2 * largest + (8 if policy.splits_hbm else 26), host_blocks)


def tightened(policy: CachePolicy) -> CachePolicy:
    """The policy with a static share, if it has one, that leaves little for KV in a pool this small."""
    return policy if policy.adapter_share is None else replace(policy, adapter_share=0.5)


def sessions(store: AdapterStore, num_sessions: int, seed: int) -> list[Request]:
    """Multi-turn sessions over all adapters and the base model, arriving close together."""
    generator = np.random.default_rng(seed)
    adapters: list[str | None] = [None, *store]
    rows: list[tuple[float, str | None, tuple[Segment, ...], str]] = []
    for session in range(num_sessions):
        adapter = adapters[session % len(adapters)]
        prompt: tuple[Segment, ...] = (Segment(f"system {session % 2}", 0, 17),)
        arrival_s = float(generator.uniform(0, 0.1))
        for turn in range(3):
            prompt = (*prompt, Segment(f"user {session} {turn}", 0, int(generator.integers(3, 25))))
            answer = f"answer {session} {turn}"
            rows.append((arrival_s, adapter, prompt, answer))
            prompt = (*prompt, Segment(answer, 0, OUTPUT_TOKENS))
            arrival_s += float(generator.uniform(0.05, 0.4))
    return [
        Request(number, arrival_s, adapter, OUTPUT_TOKENS, prompt, output=answer)
        for number, (arrival_s, adapter, prompt, answer) in enumerate(sorted(rows, key=lambda row: row[0]))
    ]


WHOLE_ADAPTERS = [name for name, policy in VARIANTS.items() if not policy.starts_cold]


@pytest.mark.parametrize("name", [*sorted(VARIANTS.keys() - set(WHOLE_ADAPTERS)), "rank-aware"])
def test_what_is_simulated_only_is_refused_by_name(name: str, network: LlamaModel, store: AdapterStore) -> None:
    policy = VARIANTS[name]
    sizes = sizes_for(store, network.spec, policy, host_blocks=150)
    with pytest.raises(LibraError, match=f"policy {policy.name!r}: .*simulated only") as caught:
        build_real_engine(policy, network, store, list(store), sizes, EngineConfig(block_tokens=BLOCK_TOKENS))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WHOLE_ADAPTERS)
def test_real_engine_evicts_what_the_simulator_evicts(name: str, network: LlamaModel, store: AdapterStore) -> None:
    policy, model = tightened(VARIANTS[name]), network.spec
    config = EngineConfig(block_tokens=BLOCK_TOKENS, max_num_batched_tokens=64)
    sizes = sizes_for(store, model, policy, host_blocks=150)
    profile = slow_profile(model)
    requests = sessions(store, 10, seed=1)
    simulated = build_simulated_engine(policy, model, list(store.values()), sizes, profile, config)
    real = build_real_engine(policy, network, store, list(store), sizes, config, pace=profile)
    results, evictions = [], []
    for engine in (simulated, real):
        evictions.append(watch_evictions(engine))
        results.append(replay(engine, requests))
        engine.manager.check()
    assert evictions[0], "the cache is too large for anything to be evicted"
    assert evictions[0] == evictions[1]
    assert results[0].records == results[1].records
    # Steps are counted one by one in both, however the simulator took them.
    assert results[0].counters == results[1].counters


def watch_evictions(engine: Engine) -> list[tuple[str | None, int]]:
    engine.manager.memory.evictions = []
    return engine.manager.memory.evictions


@pytest.fixture(scope="module")
def conversations(tiny_model: TinyModel, store: AdapterStore) -> dict[str | None, list[tuple[list[int], list[int]]]]:
    """Per adapter, a two-turn conversation: prompts and the greedy answers of transformers and peft. The second prompt
    goes on from the first answer."""
    generator = np.random.default_rng(3)
    directories = {path.name: path for path in find_adapters(tiny_model.directory / "adapters")}
    expected: dict[str | None, list[tuple[list[int], list[int]]]] = {}
    shared = generator.integers(3, 500, 19).tolist()
    for adapter in (None, *store):
        directory: Path | None = None if adapter is None else directories[adapter]
        prompt = [*shared, *generator.integers(3, 500, int(generator.integers(4, 30))).tolist()]
        expected[adapter] = []
        for _ in range(2):
            (answer,) = greedy_tokens(tiny_model.directory, directory, [prompt], OUTPUT_TOKENS)
            expected[adapter].append((prompt, answer))
            prompt = [*prompt, *answer, *generator.integers(3, 500, 9).tolist()]
    return expected


@pytest.mark.parametrize("name", [*(name for name in POLICIES if name in WHOLE_ADAPTERS), "write-back"])
def test_tokens_are_those_of_peft_under_every_policy(
    name: str,
    network: LlamaModel,
    store: AdapterStore,
    conversations: dict[str | None, list[tuple[list[int], list[int]]]],
) -> None:
    policy, model = tightened(VARIANTS[name]), network.spec
    config = EngineConfig(block_tokens=BLOCK_TOKENS, max_num_batched_tokens=48)
    sizes = sizes_for(store, model, policy, host_blocks=120)
    engine = build_real_engine(policy, network, store, list(store), sizes, config, pace=slow_profile(model))
    tell_future(engine.manager)
    for turn in range(2):
        submitted: list[tuple[Sequence, list[int]]] = []
        for number, (adapter, turns) in enumerate(conversations.items()):
            prompt, answer = turns[turn]
            request = Request(number, engine.clock.now(), adapter, OUTPUT_TOKENS, prompt_token_ids=tuple(prompt))
            submitted.append((engine.submit(request, SamplingParams()), answer))
        run_until_idle(engine)
        for sequence, answer in submitted:
            assert sequence.tokens[sequence.num_prompt_tokens :].tolist() == answer
    counters = engine.manager.memory.counters
    assert counters.adapter_in_bytes > sum(spec.num_bytes(model) for spec in store.values())
    assert counters.evicted_blocks > 0
    if policy.host_kv_tier:
        assert sum(record.host_hit_tokens for record in engine.records) > 0
    engine.manager.check()


def run_until_idle(engine: Engine) -> None:
    while engine.scheduler.has_work:
        if not engine.step():
            engine.clock.advance_to(engine.next_event_s())


def test_wall_clock_run_finishes_every_request(network: LlamaModel, store: AdapterStore) -> None:
    policy = POLICIES["fastlibra"]
    config = EngineConfig(block_tokens=BLOCK_TOKENS)
    sizes = sizes_for(store, network.spec, policy, host_blocks=150)
    engine = build_real_engine(policy, network, store, list(store), sizes, config)
    requests = sessions(store, 8, seed=2)
    try:
        result = replay(engine, [replace(request, arrival_s=request.arrival_s / 2) for request in requests])
    finally:
        engine.manager.memory.link.close()
    assert [record.status for record in result.records] == ["finished"] * len(requests)
    for record in result.records:
        assert record.first_token_s is not None
        parts = record.queue_s + record.adapter_load_s + record.kv_load_s + record.prefill_s
        assert parts == pytest.approx(record.first_token_s - record.arrival_s, abs=1e-9)
    engine.manager.check()
