"""Small caches and engines in virtual time, for tests that need one.

The tiny model's block holds 4 tokens and takes 1,024 bytes; its adapters take 2 blocks per rank. The link moves one
block in a millisecond unless told otherwise.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np

from libra.cache.foresight import Foresight
from libra.cache.manager import CacheManager
from libra.cache.memory import CacheMemory
from libra.cache.policy import CachePolicy
from libra.cache.tree import DependencyTree
from libra.clock import VirtualClock
from libra.engine.build import CacheSizes, build_manager, build_simulated_engine
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.link import Copier
from libra.engine.profile import Profile
from libra.engine.roofline import RooflineExecutor
from libra.engine.sequence import Sequence
from libra.engine.simulated_link import LinkRates, SimulatedLink
from libra.request import Request
from libra.spec import AdapterSpec, ModelSpec

BLOCK_TOKENS = 4
TINY = ModelSpec("tiny", 2, 64, 4, 2, 16, 128, vocab_size=97)
BLOCK_BYTES = TINY.block_bytes(BLOCK_TOKENS)
RATES = LinkRates(
    link_bytes_per_s=BLOCK_BYTES * 1000.0, link_latency_s=0.0, disk_bytes_per_s=BLOCK_BYTES * 200.0, disk_latency_s=0.0
)
# A step over the tiny model takes about 10 ms, a step of many prompt tokens a little more.
PROFILE = Profile(
    name="tiny",
    source="made up for tests",
    flops_per_s=2e9,
    memory_bytes_per_s=1e9,
    step_overhead_s=0.01,
    adapter_overhead_s=1e-3,
    communication_per_step_s=0.0,
    communication_per_token_s=0.0,
    link_bytes_per_s=RATES.link_bytes_per_s,
    link_latency_s=RATES.link_latency_s,
    disk_bytes_per_s=RATES.disk_bytes_per_s,
    disk_latency_s=RATES.disk_latency_s,
)


def adapters(*ranks: int) -> list[AdapterSpec]:
    """Adapters a0, a1, ... of the given ranks: ``2 * rank`` blocks each."""
    return [AdapterSpec(f"a{index}", rank) for index, rank in enumerate(ranks)]


@dataclass(frozen=True)
class Cache:
    """A manager and what it works on."""

    clock: VirtualClock
    link: SimulatedLink
    memory: CacheMemory
    manager: CacheManager

    @property
    def tree(self) -> DependencyTree:
        return self.memory.tree

    def pass_time(self, seconds: float) -> None:
        """Lets transfers go on for ``seconds`` and collects what has ended."""
        self.clock.advance_to(self.clock.now() + seconds)
        self.manager.collect()

    def settle(self) -> None:
        """Lets every transfer end."""
        while self.link.pending():
            end_s = self.link.next_completion_s()
            assert end_s is not None
            self.clock.advance_to(end_s)
            self.manager.collect()


def build_cache(
    policy: CachePolicy,
    hbm_blocks: int = 16,
    host_blocks: int = 64,
    specs: Items[AdapterSpec] | None = None,
    copier: Copier | None = None,
    rates: LinkRates = RATES,
) -> Cache:
    """A cache of the tiny model with adapters a0, a1, a2 of rank 1 unless ``specs`` says otherwise."""
    clock = VirtualClock()
    link = SimulatedLink(clock, rates, copier)
    adapter_specs = list(adapters(1, 1, 1) if specs is None else specs)
    executor = RooflineExecutor(clock, PROFILE, TINY, adapter_specs)
    config = EngineConfig(block_tokens=BLOCK_TOKENS)
    sizes = CacheSizes(hbm_blocks, host_blocks)
    manager = build_manager(policy, TINY, adapter_specs, sizes, config, clock, link, executor)
    tell_future(manager)
    return Cache(clock, link, manager.memory, manager)


def tell_future(manager: CacheManager, requests: Items[Request] = ()) -> None:
    """Tells a policy that needs the future that ``requests`` will come; a replay will tell it better."""
    if manager.memory.ranker.needs_future:
        manager.memory.ranker.foresee(Foresight.of(requests, manager.block_tokens, TINY.vocab_size))


def request(
    request_id: int = 0,
    prompt: Iterable[int] = (1, 2, 3),
    output: Iterable[int] = (1,),
    adapter: str | None = "a0",
    arrival_s: float = 0.0,
) -> Request:
    """A request for explicit tokens, answer included."""
    answer = tuple(output)
    return Request(request_id, arrival_s, adapter, len(answer), prompt_token_ids=tuple(prompt), output_token_ids=answer)


def sequence_of(wanted: Request) -> Sequence:
    """``wanted`` as the engine holds it."""
    assert wanted.prompt_token_ids is not None
    assert wanted.output_token_ids is not None
    known = np.array([*wanted.prompt_token_ids, *wanted.output_token_ids], dtype=np.uint32)
    return Sequence(wanted, known, BLOCK_TOKENS, known[len(wanted.prompt_token_ids) :])


def compute_prompt(cache: Cache, sequence: Sequence) -> None:
    """Computes the whole prompt of an admitted sequence and its first output token."""
    sequence.num_computed = sequence.num_tokens
    sequence.append(0)
    cache.manager.commit(sequence)


def serve(cache: Cache, wanted: Request) -> Sequence:
    """Runs one request from admission to history on an otherwise idle cache; every transfer ends on the way."""
    sequence = sequence_of(wanted)
    while cache.manager.admit(sequence).value != "admitted":
        assert cache.link.pending(), "an idle cache refuses a request"
        cache.settle()
    cache.settle()
    compute_prompt(cache, sequence)
    while not sequence.is_complete:
        while not cache.manager.grow(sequence):
            cache.settle()
        sequence.num_computed += 1
        sequence.append(0)
        cache.manager.commit(sequence)
    cache.manager.release(sequence)
    cache.settle()
    return sequence


def build_engine(
    policy: CachePolicy,
    hbm_blocks: int = 16,
    host_blocks: int = 64,
    specs: Items[AdapterSpec] | None = None,
    config: EngineConfig | None = None,
    profile: Profile = PROFILE,
) -> Engine:
    """A simulated engine over the tiny model, with the same adapters as ``build_cache``."""
    adapter_specs = list(adapters(1, 1, 1) if specs is None else specs)
    config = config or EngineConfig(block_tokens=BLOCK_TOKENS)
    sizes = CacheSizes(hbm_blocks, host_blocks)
    engine = build_simulated_engine(policy, TINY, adapter_specs, sizes, profile, config)
    tell_future(engine.manager)
    return engine
