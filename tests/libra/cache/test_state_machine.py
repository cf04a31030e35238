"""Random walks over pool, tree, manager and link: every invariant after every step, every policy."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from libra.cache.holding import Admission
from libra.cache.pool import RUNNING
from libra.cache.tree import ABSENT, PRESENT, ROOT
from libra.engine.sequence import Sequence
from libra.engine.simulated_link import LinkRates
from tests.libra.builders import BLOCK_BYTES, BLOCK_TOKENS, adapters, build_cache, request, sequence_of, tell_future
from tests.libra.cache.shadow import ShadowCopier
from tests.libra.variants import CACHE_VARIANTS

# Adapters of 2, 4 and 2 blocks in 14 blocks of HBM, of which a static share takes 5.
SPECS = adapters(1, 2, 1)
HBM_BLOCKS = 14
# Room for all adapters and much KV, for the adapters and little KV, and for only some of the adapters.
HOST_BLOCKS = {"roomy": 80, "tight": 11, "tiny": 5}
# Few openings and few tokens, so that prompts share prefixes and often are twins.
OPENINGS = ((), (1,) * 8, (2,) * 8, (1,) * 16, (1,) * 8 + (2,) * 4, (1,) * 8 + (2,) * 16)
# 8 ms a block: a save outlasts several steps of a walk.
RATES = LinkRates(BLOCK_BYTES / 0.008, 0.0, BLOCK_BYTES / 0.04, 0.0)
SEEN: Counter[str] = Counter()


class CacheMachine(RuleBasedStateMachine):
    """Plays the scheduler without its manners: anything it may legally ask for can come at any time."""

    policy_name = "fastlibra"
    host = "roomy"

    def __init__(self) -> None:
        super().__init__()
        self.copier = ShadowCopier()
        policy, host_blocks = CACHE_VARIANTS[self.policy_name], HOST_BLOCKS[self.host]
        if policy.adapter_share is not None:
            policy = replace(policy, adapter_share=0.36)
        self.cache = build_cache(policy, HBM_BLOCKS, host_blocks, SPECS, self.copier, RATES)
        self.manager, self.memory, self.tree = self.cache.manager, self.cache.memory, self.cache.tree
        tell_future(self.manager, [request(n, (*OPENINGS[n % len(OPENINGS)], 1, 2), [1], "a0", n) for n in range(8)])
        self.copier.fill_host(self.manager)
        self.waiting: list[Sequence] = []
        self.admitted: list[Sequence] = []
        self.num_submitted = 0

    # ---- requests --------------------------------------------------------------------------------------------------

    @rule(
        adapter=st.sampled_from([spec.adapter_id for spec in SPECS] + [None]),
        opening=st.sampled_from(OPENINGS),
        rest=st.lists(st.integers(1, 2), max_size=5),
        output=st.lists(st.integers(1, 2), min_size=1, max_size=6),
    )
    def submit(self, adapter: str | None, opening: tuple[int, ...], rest: list[int], output: list[int]) -> None:
        self._submit((*opening, 1, *rest), output, adapter)

    @rule(
        adapter=st.sampled_from([spec.adapter_id for spec in SPECS]),
        opening=st.sampled_from(OPENINGS),
        rest=st.lists(st.integers(1, 2), min_size=2, max_size=6),
    )
    def submit_and_admit(self, adapter: str, opening: tuple[int, ...], rest: list[int]) -> None:
        sequence = self._submit((*opening, *rest), rest, adapter)
        if sequence in self.waiting:
            self._admit(sequence)

    def _submit(self, prompt: tuple[int, ...], output: list[int], adapter: str | None) -> Sequence:
        sequence = sequence_of(request(self.num_submitted, prompt, output, adapter))
        self.num_submitted += 1
        if self.manager.reason_never_fits(adapter, sequence.max_tokens) is None:
            self.waiting.append(sequence)
        else:
            assert len(prompt) + len(output) > 4 * (HBM_BLOCKS - 8)
        return sequence

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        self._admit(data.draw(st.sampled_from(self.waiting)))

    def _admit(self, sequence: Sequence) -> Admission:
        self.manager.release_claim(sequence)
        before = self._trace()
        outcome = self.manager.admit(sequence)
        SEEN[outcome.name] += 1
        if outcome is Admission.NO_ROOM:
            assert self._trace() == before, "a failed admission left a trace"
        if outcome is Admission.ADMITTED:
            self.waiting.remove(sequence)
            self.admitted.append(sequence)
            assert len(sequence.block_table) == -(-sequence.num_tokens // BLOCK_TOKENS)
            assert sequence.num_computed < sequence.num_tokens, "the last known token must be computed for its logits"
        return outcome

    def _trace(self) -> tuple[object, ...]:
        tree, memory = self.tree, self.memory
        return (
            memory.hbm.owner.copy(), memory.host.owner.copy(), memory.reserved.copy(), tree.pins.tolist(),
            tree.hbm.tolist(), tree.host.tolist(), tree.last_use.tolist(), tree.log_visits.tolist(), memory.counters,
        )  # fmt: skip

    # ---- steps -----------------------------------------------------------------------------------------------------

    def _ready(self) -> list[Sequence]:
        return [sequence for sequence in self.admitted if self.manager.holdings[sequence].is_ready]

    @precondition(lambda self: self._ready())
    @rule(data=st.data(), chunk=st.integers(1, 20))
    def compute(self, data: st.DataObject, chunk: int) -> None:
        """A chunk of prefill or a decode step."""
        sequence = data.draw(st.sampled_from(self._ready()))
        if sequence.is_decoding and not self.manager.grow(sequence):
            SEEN["cannot grow"] += 1
            return
        self._step(sequence, chunk)
        if sequence.is_complete:
            self._end(sequence)
            SEEN["finished"] += 1

    @rule(adapter=st.sampled_from(["a0", "a1"]), opening=st.sampled_from(OPENINGS[1:4]))
    def leave_history(self, adapter: str, opening: tuple[int, ...]) -> None:
        """One request from admission to the end, if it can be admitted at once; the saves of its victims go on."""
        sequence = self._submit((*opening, 1), [1, 2], adapter)
        if sequence in self.waiting and self._admit(sequence) is Admission.ADMITTED:
            self.cache.pass_time(0.03)
            self.compute_everything(0.0)

    @rule(seconds=st.sampled_from([0.0, 0.008, 0.05]))
    def compute_everything(self, seconds: float) -> None:
        """Drives all that runs as far as it comes, so that walks get past the first few blocks."""
        self.cache.pass_time(seconds)
        for sequence in self._ready():
            while not sequence.is_complete and (not sequence.is_decoding or self.manager.grow(sequence)):
                self._step(sequence, sequence.num_tokens)
            if sequence.is_complete:
                self._end(sequence)
                SEEN["finished"] += 1

    def _step(self, sequence: Sequence, chunk: int) -> None:
        self.copier.compute(sequence, min(chunk, sequence.num_tokens - sequence.num_computed))
        if sequence.num_computed == sequence.num_tokens:
            sequence.append(0)
        self.manager.commit(sequence)

    @precondition(lambda self: self.waiting or self.admitted)
    @rule(data=st.data(), preempt=st.booleans())
    def abort_or_preempt(self, data: st.DataObject, preempt: bool) -> None:
        """Aborts at any stage: in the queue, with or without a claim, while it loads, while it runs."""
        sequence = data.draw(st.sampled_from(self.waiting + self.admitted))
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            self.manager.release(sequence)
        else:
            SEEN["aborted while it loads"] += not self.manager.holdings[sequence].is_ready
            self._end(sequence)
            if preempt:
                self.waiting.insert(0, sequence)

    def _end(self, sequence: Sequence) -> None:
        self.admitted.remove(sequence)
        self.manager.release(sequence)

    @rule(tick=st.booleans())
    def look_around(self, tick: bool) -> None:
        if tick:
            self.manager.tick(len(self.admitted))
        else:
            self.manager.look_ahead(self.waiting)

    @rule(seconds=st.sampled_from([0.004, 0.008, 0.016, 0.1, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.cache.pass_time(seconds)

    # ---- proof -----------------------------------------------------------------------------------------------------

    @invariant()
    def holds_together(self) -> None:
        self.manager.check()
        for sequence in self._ready():
            adapter_node = self.manager.adapter_node(sequence.adapter_id)
            self.copier.check(sequence, int(self.tree.host_size[adapter_node]))
        for sequence, holding in self.manager.holdings.items():
            labels = sequence.hashes(len(holding.path))
            owner = self.tree.adapter_nodes[sequence.adapter_id]
            assert [self.tree.labels[node] for node in holding.path] == labels[: len(holding.path)]
            assert all(self.tree.adapter[node] == owner for node in holding.path), "KV crossed adapters"

    @invariant()
    def no_load_outlives_its_room(self) -> None:
        counters = self.memory.counters
        SEEN["steps"] += 1
        SEEN["evicted"] += counters.evicted_blocks > 0
        SEEN["saved"] += counters.swap_out_bytes > 0
        SEEN["dropped"] += counters.dropped_kv_blocks > 0
        SEEN["prefetched"] += counters.prefetch_in_bytes > 0
        SEEN["on disk"] += bool((self.tree.is_adapter & (self.tree.host == ABSENT) & (self.tree.size > 0)).any())

    def teardown(self) -> None:
        """Releases everything: nothing may leak."""
        manager, memory, tree = self.manager, self.memory, self.tree
        for sequence in self.waiting + self.admitted:
            manager.release(sequence)
        self.cache.settle()
        manager.check()
        assert not manager.holdings
        assert not manager.claims
        assert not memory.loading
        assert not memory.saving
        assert not memory._load_pins
        assert memory.reserved == [0, 0]
        assert RUNNING not in memory.hbm.owner
        pinned = set(np.flatnonzero(tree.pins).tolist())
        assert pinned == {ROOT, tree.adapter_nodes[None]}
        assert memory.obtainable_blocks(0) == memory.region(0).num_blocks
        # With nothing pinned, all of HBM can be had.
        for kind in (0, 1):
            memory.evict(kind, memory.pooled(tree.evictable_blocks, kind))
        self.cache.settle()
        assert memory.hbm.num_free == memory.hbm.num_blocks
        manager.check()
        if manager.policy.dependency:
            assert not (tree.hbm[tree.in_use & tree.is_adapter & (tree.size > 0)] == PRESENT).any()


@pytest.mark.parametrize("host", HOST_BLOCKS)
@pytest.mark.parametrize("name", CACHE_VARIANTS)
def test_invariants_hold_whatever_is_asked(name: str, host: str) -> None:
    machine = type("Machine", (CacheMachine,), {"policy_name": name, "host": host})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=60,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_walks_above_met_everything_they_should() -> None:
    """Runs after them: a walk that never evicts or saves proves nothing."""
    if not SEEN:
        pytest.skip("the walks were not selected")
    wanted = (
        "ADMITTED", "SAVING", "NO_ROOM", "finished", "cannot grow", "aborted while it loads", "evicted", "saved",
        "dropped", "prefetched", "on disk",
    )  # fmt: skip
    assert [event for event in wanted if SEEN[event] < 5] == []
