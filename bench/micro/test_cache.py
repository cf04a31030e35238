"""What the cache costs the engine's thread. `make micro` runs it; targets are in results/micro/README.md.

Figures per request or per call are in ``extra_info`` where a round covers several.
"""

import gc
import resource
from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from baselines import POLICIES
from bench.micro.cache_load import CacheLoad
from bench.settings import DEFAULT_POLICIES
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.holding import Admission
from libra.cache.manager import CacheManager
from libra.cache.policy import CachePolicy
from libra.clock import VirtualClock
from libra.engine.build import CacheSizes, build_manager, build_simulated_engine, default_hbm_bytes, link_rates
from libra.engine.config import EngineConfig
from libra.engine.profile import datasheet_profile
from libra.engine.replay import replay
from libra.engine.roofline import RooflineExecutor
from libra.engine.sequence import Sequence
from libra.engine.simulated_link import SimulatedLink
from libra.request import Request, Segment
from libra.spec import DEVICES, GIB, MODELS, AdapterSpec
from libra.tokens import prompt_tokens, segment_tokens

MODEL = MODELS["llama3-8b"]
BLOCK_TOKENS = 32
BLOCK_BYTES = MODEL.block_bytes(BLOCK_TOKENS)
LOAD = CacheLoad()
SPECS = [AdapterSpec(name, 32 if number % 2 else 64) for number, name in enumerate(LOAD.adapters)]
CAPACITY_TOKENS = 400_000


def build(policy: CachePolicy, hbm_blocks: int, host_blocks: int) -> tuple[VirtualClock, CacheManager]:
    profile = datasheet_profile(DEVICES["h800"], MODEL, 1)
    clock = VirtualClock()
    executor = RooflineExecutor(clock, profile, MODEL, SPECS)
    link = SimulatedLink(clock, link_rates(profile))
    config = EngineConfig(block_tokens=BLOCK_TOKENS)
    manager = build_manager(policy, MODEL, SPECS, CacheSizes(hbm_blocks, host_blocks), config, clock, link, executor)
    return clock, manager


def sequence_of(request: Request) -> Sequence:
    tokens = np.zeros(request.num_prompt_tokens + request.output_tokens, dtype=np.uint32)
    tokens[: request.num_prompt_tokens] = prompt_tokens(request, MODEL.vocab_size)
    answer = segment_tokens(request.output or "", 0, request.output_tokens, MODEL.vocab_size)
    return Sequence(request, tokens, BLOCK_TOKENS, answer)


class Player:
    """Plays requests one after the other and times what the cache does, not what the GPU or the link would."""

    def __init__(self, clock: VirtualClock, manager: CacheManager) -> None:
        self.clock, self.manager = clock, manager
        self.seconds = {"admit": 0.0, "insert": 0.0, "collect": 0.0, "release": 0.0}
        self.num_requests = 0

    def _timed(self, what: str, start_s: float) -> None:
        self.seconds[what] += perf_counter() - start_s

    def play(self, sequence: Sequence) -> None:
        manager = self.manager
        self.clock.advance_to(sequence.request.arrival_s)
        outcome = self._admit(sequence)
        while outcome is not Admission.ADMITTED:
            self.clock.advance_to(manager.memory.link.next_completion_s() or 0.0)
            start_s = perf_counter()
            manager.collect()
            self._timed("collect", start_s)
            outcome = self._admit(sequence)
        self._insert(sequence, sequence.num_prompt_tokens)
        # Blocks enter one by one as they fill during decode.
        while sequence.num_computed < sequence.max_tokens - 1:
            self._grow(sequence)
            self._insert(sequence, min(len(sequence.block_table) * BLOCK_TOKENS, sequence.max_tokens - 1))
        start_s = perf_counter()
        manager.release(sequence)
        self._timed("release", start_s)
        self.num_requests += 1

    def _admit(self, sequence: Sequence) -> Admission:
        start_s = perf_counter()
        outcome = self.manager.admit(sequence)
        self._timed("admit", start_s)
        return outcome

    def _grow(self, sequence: Sequence) -> None:
        while True:
            start_s = perf_counter()
            grown = self.manager.grow(sequence)
            self._timed("insert", start_s)
            if grown:
                return
            self.clock.advance_to(self.manager.memory.link.next_completion_s() or 0.0)
            start_s = perf_counter()
            self.manager.collect()
            self._timed("collect", start_s)

    def _insert(self, sequence: Sequence, num_computed: int) -> None:
        sequence.num_computed = num_computed
        sequence.num_tokens = min(num_computed + 1, sequence.max_tokens)
        start_s = perf_counter()
        self.manager.commit(sequence)
        self._timed("insert", start_s)


@pytest.mark.parametrize("variant", ["host tier", "no host tier"])
def test_match_insert_and_evict_per_request(benchmark: BenchmarkFixture, variant: str) -> None:
    """(a) Everything the cache does for a request, at steady eviction. Target: 300 us per request."""
    policy = replace(FASTLIBRA, swapper=None, host_kv_tier=variant == "host tier")
    player = Player(*build(policy, CAPACITY_TOKENS // BLOCK_TOKENS, 256 * GIB // BLOCK_BYTES))
    sequences = [sequence_of(request) for request in LOAD.requests()]
    warm_up, measured = sequences[:1500], iter(sequences[1500:])
    for sequence in warm_up:
        player.play(sequence)
    assert player.manager.memory.counters.evicted_blocks > 0
    player.seconds = dict.fromkeys(player.seconds, 0.0)
    player.num_requests = 0
    gc.collect()
    evicted = player.manager.memory.counters.evicted_blocks

    def hundred() -> None:
        for _ in range(100):
            player.play(next(measured))

    benchmark.pedantic(hundred, rounds=25, iterations=1)
    per_request = {f"{what}_us": 1e6 * s / player.num_requests for what, s in player.seconds.items()}
    benchmark.extra_info |= per_request
    benchmark.extra_info["total_us_per_request"] = sum(per_request.values())
    evicted = player.manager.memory.counters.evicted_blocks - evicted
    benchmark.extra_info["evicted_blocks_per_request"] = evicted / player.num_requests


def filled(num_nodes: int, policy: CachePolicy) -> tuple[VirtualClock, CacheManager]:
    """A cache whose HBM is full with ``num_nodes`` KV nodes of 32-block chains, used at different times."""
    clock, manager = build(policy, num_nodes, 2 * num_nodes)
    chain = 32 * BLOCK_TOKENS
    for number in range(num_nodes // 32):
        clock.advance_to(number * 1e-3)
        name = LOAD.adapters[number % LOAD.num_adapters] if manager.memory.hbm.num_free > 100 else None
        prompt = (Segment(f"chain {number}", 0, chain - 1),)
        sequence = sequence_of(Request(number, 0.0, name, 1, prompt, output="x"))
        if manager.admit(sequence) is not Admission.ADMITTED:
            manager.release(sequence)
            break
        sequence.num_computed = chain - 1
        manager.commit(sequence)
        manager.release(sequence)
    while manager.memory.link.pending():
        clock.advance_to(manager.memory.link.next_completion_s() or 0.0)
        manager.collect()
    return clock, manager


@pytest.mark.parametrize("work", ["evicts", "prefetches"])
@pytest.mark.parametrize("num_nodes", [20_000, 100_000])
def test_swapper_tick(benchmark: BenchmarkFixture, num_nodes: int, work: str) -> None:
    """(b) A tick that scores all nodes and evicts 1 % of HBM, or prefetches as much as the link moves in 100 ms.
    Targets: 1 ms at 20,000 nodes, 5 ms at 100,000."""
    clock, manager = filled(num_nodes, FASTLIBRA)
    memory = manager.memory
    if work == "prefetches":
        memory.evict(0, memory.tree.evictable_blocks[0] * 9 // 10)

    def setup() -> None:
        # Everything under way ends; then HBM is as full as before, and the next ranking is due.
        while memory.link.pending():
            clock.advance_to(memory.link.next_completion_s() or 0.0)
            manager.collect()
        clock.advance_to(clock.now() + 0.2)
        if work == "evicts":
            region = memory.hbm.kv_region
            wanted = region.num_free - int(0.04 * num_nodes)
            if wanted > 0:
                region.allocate(wanted, -2)

    benchmark.pedantic(lambda: manager.tick(64), setup=setup, rounds=20, iterations=1)
    moved = memory.counters.evicted_blocks if work == "evicts" else memory.counters.prefetch_in_bytes // BLOCK_BYTES
    assert moved > 0
    benchmark.extra_info["nodes"] = len(memory.tree)
    benchmark.extra_info["blocks_moved_per_tick"] = moved / 20


def test_match_of_a_warm_prompt(benchmark: BenchmarkFixture) -> None:
    """(c) Hashing and matching 4,096 tokens that HBM holds. Target: 60 us."""
    clock, manager = build(FASTLIBRA, 20_000, 20_000)
    request = Request(0, 0.0, "a00", 1, (Segment("long", 0, 4097),), output="x")
    sequence = sequence_of(request)
    assert manager.admit(sequence) is Admission.ADMITTED
    sequence.num_computed = 4096
    manager.commit(sequence)
    tree, node = manager.memory.tree, manager.adapter_node("a00")

    def match() -> int:
        sequence.block_hashes = []
        return len(tree.match(node, sequence.hashes(128)[:128]))

    assert benchmark(match) == 128
    assert clock.now() == 0.0


def test_admission(benchmark: BenchmarkFixture) -> None:
    """(d) Admitting 1,340 tokens of which 1,024 are cached, with room to spare. Target: 100 us."""
    _, manager = build(FASTLIBRA, 50_000, 50_000)
    prompt = (Segment("shared", 0, 1024), Segment("own", 0, 316))
    first = sequence_of(Request(0, 0.0, "a00", 1, prompt[:1], output="x"))
    assert manager.admit(first) is Admission.ADMITTED
    first.num_computed = 1024
    manager.commit(first)

    def setup() -> tuple[tuple[Sequence], dict[str, object]]:
        return (sequence_of(Request(1, 0.0, "a00", 180, prompt, output="y")),), {}

    def admit(sequence: Sequence) -> None:
        assert manager.admit(sequence) is Admission.ADMITTED

    benchmark.pedantic(admit, setup=setup, rounds=500, iterations=1)


@pytest.mark.parametrize("name", ["libra", *DEFAULT_POLICIES])
def test_simulator_half_an_hour_of_chatbot(benchmark: BenchmarkFixture, name: str) -> None:
    """(e) 1,800 s of chatbot at 5 req/s, llama3-8b on an h800, 50 adapters. Target: 15 s and 500 MB."""
    from workloads.demand import Demand
    from workloads.garbage import collection_paused
    from workloads.registry import WORKLOADS

    trace = WORKLOADS["chatbot"].generate(Demand(num_adapters=50, request_rate=5.0, duration_s=1800.0))
    specs = [AdapterSpec(adapter, 32 if n % 2 else 64) for n, adapter in enumerate(trace.header.adapters)]
    device = DEVICES["h800"]
    sizes = CacheSizes.from_bytes(default_hbm_bytes(device, MODEL, 1), 256 * GIB, BLOCK_BYTES)

    def simulate() -> int:
        profile = datasheet_profile(device, MODEL, 1)
        engine = build_simulated_engine(POLICIES[name], MODEL, specs, sizes, profile)
        with collection_paused():  # as `libra bench` does
            result = replay(engine, trace.requests)
        return sum(record.status == "finished" for record in result.records)

    finished = benchmark.pedantic(simulate, rounds=1, iterations=1)
    assert finished == len(trace.requests)
    # Of the whole process, all benchmarks before this one included.
    benchmark.extra_info["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
