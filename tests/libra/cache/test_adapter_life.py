"""Adapters that come, go, and cannot be read, at any moment of a cache's life."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from baselines import POLICIES
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.holding import AdapterInUse
from libra.engine.link import Copier, Direction, Transfer
from libra.errors import LibraError
from libra.spec import AdapterSpec
from tests.libra.builders import build_cache, request, sequence_of, serve
from tests.libra.cache.test_state_machine import HOST_BLOCKS, SPECS, CacheMachine

SEEN: Counter[str] = Counter()
# One that no machine starts with; as large as a padded slot of theirs.
LATE = AdapterSpec("late", 2)


class FlakyCopier(Copier):
    """Cannot read the adapters in ``unreadable`` from disk; leaves the rest to ``inner``, if any."""

    def __init__(self, inner: Copier | None = None) -> None:
        self.unreadable: set[str | None] = set()
        self._inner = inner

    def copy(self, transfer: Transfer) -> None:
        if transfer.direction is Direction.DISK and transfer.adapter_id in self.unreadable:
            raise LibraError("the file is gone")
        if self._inner is not None:
            self._inner.copy(transfer)


class LifeMachine(CacheMachine):
    """The walks of test_state_machine, while adapters are added, removed and lost."""

    def __init__(self) -> None:
        super().__init__()
        self.flaky = FlakyCopier(self.copier)
        self.cache.link._copier = self.flaky

    def _everyone(self) -> list[str | None]:
        return [sequence.adapter_id for sequence in self.waiting + self.admitted]

    @precondition(lambda self: "late" not in self.tree.adapter_nodes)
    @rule()
    def add(self) -> None:
        self.manager.add_adapter(LATE)
        assert self.manager.adapter_tier("late") == "disk"

    @precondition(lambda self: "late" in self.tree.adapter_nodes)
    @rule(opening=st.sampled_from([(), (1,) * 8, (2,) * 12]), admit=st.booleans())
    def ask_for_the_late_one(self, opening: tuple[int, ...], admit: bool) -> None:
        sequence = self._submit((*opening, 1), [1, 2], "late")
        if admit and sequence in self.waiting:
            self._admit(sequence)

    @rule(name=st.sampled_from(["late", "a0", "a2"]))
    def remove(self, name: str) -> None:
        """As the engine does: never while requests of it are about."""
        if name in self._everyone() or name not in self.tree.adapter_nodes:
            return
        kv = self.tree.in_use & (self.tree.adapter == self.tree.adapter_nodes[name]) & ~self.tree.is_adapter
        try:
            self.manager.remove_adapter(name)
        except AdapterInUse:
            SEEN["removed too early"] += 1
            return
        SEEN["removed with KV" if kv.any() else "removed"] += 1
        assert name not in self.tree.adapter_nodes
        if name != "late":
            self.manager.add_adapter(next(spec for spec in SPECS if spec.adapter_id == name))
            SEEN["came back"] += 1

    @rule(names=st.sets(st.sampled_from(["late", "a0", "a1", "a2"])))
    def lose_files(self, names: set[str | None]) -> None:
        self.flaky.unreadable = names

    def teardown(self) -> None:
        self.flaky.unreadable = set()
        self.end_failed()
        super().teardown()

    def end_failed(self) -> None:
        """What the engine does after every collection."""
        for load in self.manager.failed_loads:
            for sequence in [one for one in self.waiting + self.admitted if one.adapter_id == load.adapter_id]:
                (self.waiting if sequence in self.waiting else self.admitted).remove(sequence)
                self.manager.release(sequence)
                SEEN["ended with its load"] += 1
        for load in self.manager.abandon_failed():
            SEEN["abandoned"] += 1
            assert self.manager.adapter_tier(load.adapter_id) == "disk"
        SEEN["kept for later"] += len(self.manager.failed_loads)

    @rule()
    def give_up(self) -> None:
        self.end_failed()


@pytest.mark.parametrize("host", HOST_BLOCKS)
@pytest.mark.parametrize("name", ["fastlibra", "vllm-offload", "slora", "wom", "hawkeye", "arc", "write-back"])
def test_invariants_hold_while_adapters_come_and_go(name: str, host: str) -> None:
    machine = type("Machine", (LifeMachine,), {"policy_name": name, "host": host})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=60,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_walks_above_met_everything_they_should() -> None:
    if not SEEN:
        pytest.skip("the walks were not selected")
    wanted = ("removed", "removed with KV", "removed too early", "came back", "ended with its load", "abandoned")
    assert [event for event in wanted if SEEN[event] < 3] == []


def test_a_removed_adapter_leaves_no_block_and_no_label() -> None:
    cache = build_cache(FASTLIBRA, hbm_blocks=24, host_blocks=40)
    cache.manager.add_adapter(LATE)
    before = (cache.memory.hbm.num_free, cache.memory.host.num_free, len(cache.tree))
    serve(cache, request(1, range(12), (1, 2, 3), adapter="late"))
    assert cache.memory.hbm.num_free < before[0]
    cache.memory.evict(0, 6)  # some of it is in host memory now
    cache.settle()
    cache.manager.remove_adapter("late")
    assert (cache.memory.hbm.num_free, cache.memory.host.num_free, len(cache.tree)) == (*before[:2], before[2] - 1)
    cache.manager.check()
    cache.manager.add_adapter(LATE)
    again = sequence_of(request(2, range(12), (1,), adapter="late"))
    assert cache.manager.admit(again).value == "admitted"
    assert again.num_computed == 0, "KV of the old adapter was found under the new one"


def test_what_cannot_be_added_or_removed_is_said() -> None:
    cache = build_cache(FASTLIBRA, hbm_blocks=16)
    with pytest.raises(LibraError, match="'a0' is there already"):
        cache.manager.add_adapter(AdapterSpec("a0", 1))
    with pytest.raises(LibraError, match="takes 18 blocks, its region of HBM has 16"):
        cache.manager.add_adapter(AdapterSpec("wide", 9))
    with pytest.raises(LibraError, match="unknown adapter 'a9'"):
        cache.manager.remove_adapter("a9")
    held = sequence_of(request(1, range(4), adapter="a0"))
    cache.manager.admit(held)
    with pytest.raises(AdapterInUse):
        cache.manager.remove_adapter("a0")
    padded = build_cache(replace(POLICIES["vllm-async"], adapter_share=0.4), hbm_blocks=16)
    with pytest.raises(LibraError, match="takes 4 blocks, its slot has 2"):
        padded.manager.add_adapter(AdapterSpec("wide", 2))


def test_a_failed_load_above_kv_in_flight_waits_for_it() -> None:
    copier = FlakyCopier()
    cache = build_cache(FASTLIBRA, hbm_blocks=16, host_blocks=40, copier=copier)
    cache.manager.add_adapter(LATE)
    serve(cache, request(1, range(41), (1, 2), adapter="late"))
    tree, node = cache.tree, cache.tree.adapter_nodes["late"]
    cache.memory.evict(0, cache.memory.tree.evictable_blocks[0] + cache.memory.tree.evictable_blocks[1])
    cache.settle()
    # Its own host copy is gone, that of its KV is not: it comes from disk, and ten blocks of KV take longer.
    cache.memory._drop_host([node])
    assert cache.manager.adapter_tier("late") == "disk"
    copier.unreadable = {"late"}
    cache.link._rates = replace(cache.link._rates, disk_bytes_per_s=cache.link._rates.link_bytes_per_s)
    waiting = sequence_of(request(2, range(41), (1,), adapter="late"))
    assert cache.manager.admit(waiting).value == "admitted"
    while not cache.manager.failed_loads:
        end_s = cache.link.next_completion_s()
        assert end_s is not None
        cache.clock.advance_to(end_s)
        cache.manager.collect()
    assert cache.link.pending(), "the KV ought to be on its way still"
    cache.manager.release(waiting)
    assert cache.manager.abandon_failed() == []
    cache.manager.check()
    cache.settle()
    assert len(cache.manager.abandon_failed()) == 1
    cache.manager.check()
    assert cache.memory.hbm.num_free == 16
    assert tree.pins[node] == 0


@pytest.mark.parametrize("adapter_id", ["a0", "a1", "a2"])
def test_requests_of_other_adapters_outlive_a_failed_load(adapter_id: str) -> None:
    copier = FlakyCopier()
    cache = build_cache(FASTLIBRA, hbm_blocks=24, host_blocks=1, copier=copier)
    copier.unreadable = {adapter_id}
    sequences = [sequence_of(request(n, range(4), adapter=f"a{n}")) for n in range(3)]
    for sequence in sequences:
        assert cache.manager.admit(sequence).value == "admitted"
    cache.settle()
    (failed,) = cache.manager.failed_loads
    assert failed.adapter_id == adapter_id
    ready = [one.adapter_id for one in sequences if cache.manager.holdings[one].is_ready]
    assert ready == [name for name in ("a0", "a1", "a2") if name != adapter_id]
