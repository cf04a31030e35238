"""The policy contract: what is refused, what is reported, and what a ranker sees."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines import POLICIES, find_policy
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import CachePolicy, Ranker, RankingContext, Scores, SwapperConfig
from libra.cache.rankers import KvBeforeAdapters, LeastRecentlyUsed
from libra.cache.tree import DependencyTree
from libra.engine.link import Priority
from libra.errors import LibraError
from libra.spec import AdapterSpec
from tests.libra.builders import Cache, adapters, build_cache, request, sequence_of, serve

# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"adapter_share": 0.0, "dependency": False}, "adapter_share"),
        ({"adapter_share": 1.0, "dependency": False}, "adapter_share"),
        ({"adapter_share": 0.2}, "dependency"),
        ({"host_kv_tier": False, "write_back": "on_finish"}, "write_back"),
        ({"visit_half_life_s": 0.0}, "visit_half_life_s"),
        ({"visit_half_life_s": math.nan}, "visit_half_life_s"),
        ({"max_pass_s": -1.0}, "max_pass_s"),
        ({"lookahead": 0}, "lookahead"),
        ({"max_adapters": 8, "adapter_slots": "padded"}, "max_adapters needs dependency"),
        ({"max_adapters": 8, "dependency": False}, "adapter_slots padded"),
        ({"max_adapters": 0, "adapter_slots": "padded", "dependency": False}, "max_adapters must be at least 1"),
        ({"max_adapters": 8, "adapter_share": 0.2, "dependency": False}, "keep one"),
        ({"spare_queued": True}, "spare_queued"),
        ({"swap_unit": "branch", "dependency": False}, "swap_unit"),
        ({"cold_start": "cpu_assist", "adapter_load": "by_layer"}, "cpu_assist"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(LibraError, match=fault) as caught:
        replace(FASTLIBRA, **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [{"tick_s": 0.0}, {"low": 0.9, "high": 0.8}, {"high": 1.1}, {"low": -0.1}])
def test_watermarks_out_of_order_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(LibraError, match="swapper"):
        SwapperConfig(**bad)


@pytest.mark.parametrize("name", list(POLICIES))
def test_settings_are_plain_and_complete(name: str) -> None:
    settings = POLICIES[name].settings()
    assert settings["name"] == name
    assert {"ranker", "dependency", "adapter_share", "swapper", "max_pass_s"} <= settings.keys()
    assert all(isinstance(value, str | int | float | bool | None) for value in settings.values())


def test_a_cache_gets_a_ranker_of_its_own() -> None:
    first, second = build_cache(FASTLIBRA), build_cache(FASTLIBRA)
    assert first.memory.ranker is not FASTLIBRA.ranker
    assert first.memory.ranker is not second.memory.ranker


# ---- compositions of the published systems -------------------------------------------------------------------------


def test_the_published_systems_are_composed_as_the_design_says() -> None:
    vllm, offload, slora = (POLICIES[name] for name in ("vllm", "vllm-offload", "slora"))
    assert (vllm.adapter_share, vllm.dependency, vllm.host_kv_tier) == (0.2, False, False)
    assert (vllm.adapter_load, vllm.adapter_slots, vllm.history_kv) == ("blocking", "padded", "keep")
    assert offload.host_kv_tier
    assert offload.adapter_load == "async"
    assert (slora.adapter_share, slora.history_kv, slora.idle_adapters) == (None, "discard", "discard")
    assert (slora.prefetch, slora.host_kv_tier) == ("queue", False)
    sglang, caraserve, chameleon = (POLICIES[name] for name in ("sglang", "caraserve", "chameleon"))
    assert (sglang.max_adapters, sglang.adapter_slots, sglang.dependency) == (8, "padded", False)
    assert (sglang.adapter_load, sglang.host_kv_tier, sglang.history_kv) == ("async", False, "keep")
    assert caraserve == replace(slora, name="caraserve", summary=caraserve.summary, cold_start="cpu_assist")
    assert (chameleon.history_kv, chameleon.idle_adapters, chameleon.prefetch) == ("discard", "keep", "queue")
    assert (chameleon.scheduler, chameleon.spare_queued) == ("multi_queue", True)
    assert FASTLIBRA.swapper == SwapperConfig(tick_s=0.1, high=0.95, low=0.70, prefetch=True)


@pytest.mark.parametrize("name", ["lru", "order-only"])
def test_controls_differ_from_fastlibra_in_the_ranking_alone(name: str) -> None:
    control = POLICIES[name]
    same = replace(control, name=FASTLIBRA.name, summary=FASTLIBRA.summary, ranker=FASTLIBRA.ranker)
    assert same == FASTLIBRA


# ---- rankers -------------------------------------------------------------------------------------------------------


def two_kinds() -> tuple[DependencyTree, int, int]:
    tree = DependencyTree(60.0)
    adapter = tree.add_adapter(AdapterSpec("a", 8), 2, 2, 100)
    (block,) = tree.add_kv(adapter, [1], [0], 100, now_s=5.0).tolist()
    tree.last_use[adapter] = 3.0
    return tree, adapter, block


CONTEXT = RankingContext(9.0, "out", "hbm", 1, 1.0, 1e9, 1e9, 0.001)


def test_lru_ranks_by_last_use_whatever_the_kind() -> None:
    tree, adapter, block = two_kinds()
    assert LeastRecentlyUsed().score(tree, np.array([adapter, block]), CONTEXT).tolist() == [3.0, 5.0]


def test_order_only_keeps_every_adapter_above_all_kv() -> None:
    tree, adapter, block = two_kinds()
    scores = KvBeforeAdapters().score(tree, np.array([adapter, block]), CONTEXT)
    assert scores.tolist() == [13.0, 5.0]


class Recorder(Ranker):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[int]]] = []

    def fresh(self) -> "Recorder":
        return self

    def score(self, tree: DependencyTree, nodes: Any, context: RankingContext) -> Scores:
        return tree.last_use[nodes]

    def on_hit(self, tree: DependencyTree, nodes: Any, now_s: float) -> None:
        self.events.append(("hit", nodes.tolist()))

    def on_insert(self, tree: DependencyTree, nodes: Any, now_s: float) -> None:
        self.events.append(("insert", nodes.tolist()))

    def on_enter(self, tree: DependencyTree, nodes: Any, now_s: float, prefetched: bool) -> None:
        self.events.append(("prefetch" if prefetched else "enter", nodes.tolist()))

    def on_leave(self, tree: DependencyTree, nodes: Any, now_s: float) -> None:
        self.events.append(("leave", nodes.tolist()))

    def on_forget(self, tree: DependencyTree, nodes: Any, now_s: float) -> None:
        self.events.append(("forget", nodes.tolist()))


def recorded_cache(**options: Any) -> tuple[Cache, list[tuple[str, list[int]]]]:
    ranker = Recorder()
    policy = replace(FASTLIBRA, ranker=ranker, swapper=None, **options)
    return build_cache(policy, specs=adapters(1)), ranker.events


@pytest.mark.parametrize(("scope", "visited"), [("path", 3), ("last", 1)])
def test_a_ranker_hears_of_every_match_and_insertion(scope: Any, visited: int) -> None:
    cache, events = recorded_cache(visit_scope=scope)
    serve(cache, request(0, range(8), [1], "a0"))
    adapter = cache.manager.adapter_node("a0")
    blocks = events[-1][1]
    assert events == [("hit", [adapter]), ("enter", [adapter]), ("insert", blocks)]
    assert len(blocks) == 2
    events.clear()
    serve(cache, request(1, [*range(8), 9], [1], "a0"))
    assert events == [("hit", [adapter, *blocks][-visited:])]


def test_a_ranker_hears_of_every_way_out_of_hbm_and_back() -> None:
    cache, events = recorded_cache()
    serve(cache, request(0, range(8), [1], None))
    first, second = blocks = events[-1][1]
    events.clear()
    cache.memory.evict(0, 1)
    cache.memory.rescue(np.array(blocks), cache.clock.now())  # its save has not ended
    cache.memory.evict(0, 2)
    cache.settle()
    cache.memory.load([first], Priority.PREFETCH)
    cache.settle()
    assert events == [("leave", [second]), ("enter", [second]), ("leave", [second, first]), ("prefetch", [first])]


def test_a_ranker_hears_when_kv_is_forgotten() -> None:
    cache, events = recorded_cache(host_kv_tier=False)
    serve(cache, request(0, range(8), [1], None))
    first, second = events[-1][1]
    events.clear()
    cache.memory.evict(0, 2)
    assert events[0] == ("leave", [second, first])
    assert [node for name, nodes in events[1:] if name == "forget" for node in nodes] == [second, first]


def test_scores_for_host_memory_are_asked_as_such() -> None:
    cache, _ = recorded_cache()
    assert cache.memory.context("out").tier == "hbm"
    host = cache.memory.context("out", "host")
    assert (host.tier, host.swap) == ("host", "out")
    assert host.link_bytes_per_s > host.disk_bytes_per_s > 0
    assert host.recompute_s_per_block > 0


# ---- policies from a user's file -----------------------------------------------------------------------------------

USER_FILE = """
from __future__ import annotations
from dataclasses import dataclass, replace
from libra.cache.fastlibra import FASTLIBRA
from libra.cache.policy import Ranker

@dataclass(frozen=True)
class Oldest(Ranker):
    weight: float = 1.0
    def score(self, tree, nodes, context):
        return self.weight * tree.created[nodes]

MINE = replace(FASTLIBRA, name="mine", ranker=Oldest())
NUMBER = 3
"""


def test_a_policy_is_loaded_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    policy = find_policy(f"{path}:MINE")
    assert isinstance(policy, CachePolicy)
    assert policy.name == "mine"
    build_cache(policy)


@pytest.mark.parametrize(
    ("variable", "fault"),
    [("NUMBER", "no CachePolicy named 'NUMBER'; it has: "), ("OTHER", "MINE")],
)
def test_a_file_without_that_policy_names_those_it_has(tmp_path: Path, variable: str, fault: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    with pytest.raises(LibraError, match=fault):
        find_policy(f"{path}:{variable}")


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LibraError, match=r"as in mine\.py:my_policy"):
        find_policy("mine.py")
    with pytest.raises(LibraError, match="does not exist"):
        find_policy(f"{tmp_path / 'none.py'}:X")
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name\n")
    with pytest.raises(LibraError, match="fails on import: ModuleNotFoundError") as caught:
        find_policy(f"{broken}:X")
    assert "\n" not in str(caught.value)


def test_an_unknown_policy_suggests_the_nearest() -> None:
    with pytest.raises(LibraError, match="did you mean 'fastlibra'"):
        find_policy("fastlibre")


# ---- static shares -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hbm_blocks", [7, 40, 97, 1234])
@pytest.mark.parametrize("rank", [1, 3, 14])
def test_a_share_too_small_for_a_slot_is_refused_with_the_smallest_that_works(hbm_blocks: int, rank: int) -> None:
    vllm = replace(POLICIES["vllm"], adapter_share=0.001)
    if 2 * rank >= hbm_blocks:
        with pytest.raises(LibraError, match="more memory"):
            build_cache(vllm, hbm_blocks, specs=adapters(rank))
        return
    with pytest.raises(LibraError, match="a share of") as caught:
        build_cache(vllm, hbm_blocks, specs=adapters(rank))
    advised = float(str(caught.value).split("a share of ")[1].split()[0])
    build_cache(replace(vllm, adapter_share=advised), hbm_blocks, specs=adapters(rank))


def test_slots_by_number_are_padded_and_no_more_than_there_are_adapters() -> None:
    sglang = POLICIES["sglang"]
    regions = [build_cache(sglang, 60, specs=adapters(*ranks)).memory.region(1) for ranks in ((1, 3), (3,) * 9)]
    assert [region.num_blocks for region in regions] == [12, 48]
    with pytest.raises(LibraError, match="8 adapter slots of 6 blocks leave no room for KV in 48 blocks"):
        build_cache(sglang, 48, specs=adapters(*(3,) * 9))


def test_a_slot_goes_to_whoever_used_it_longest_ago_and_kv_stays() -> None:
    cache = build_cache(replace(POLICIES["sglang"], max_adapters=2), 20)
    for number, adapter in enumerate(("a0", "a1", "a0", "a2")):
        serve(cache, request(number, [number] * 9, [1], adapter))
        cache.pass_time(1.0)
    assert [cache.manager.adapter_tier(adapter) for adapter in ("a0", "a1", "a2")] == ["hbm", "host", "hbm"]
    assert cache.tree.hbm[[node for node in range(20) if cache.tree.depth[node] > 1]].all()


def test_adapters_of_queued_requests_leave_last_where_the_policy_spares_them() -> None:
    chameleon = POLICIES["chameleon"]
    for spare, kept in ((True, "a1"), (False, "a0")):
        # a0 is used most, so that by its score it stays; a1 is what the queue waits for.
        cache = build_cache(replace(chameleon, spare_queued=spare), 12, specs=adapters(1, 1))
        for number, adapter in enumerate(("a0", "a1", "a0", "a0")):
            serve(cache, request(number, [number] * 3, [1], adapter))
            cache.pass_time(1.0)
        cache.manager.look_ahead([sequence_of(request(9, [1, 2], [1], "a1"))])
        cache.memory.evict(0, 2)
        assert [cache.manager.adapter_tier(name) for name in ("a0", "a1")].count("hbm") == 1
        assert cache.manager.adapter_tier(kept) == "hbm"


def test_a_unified_pool_smaller_than_an_adapter_asks_for_memory_and_not_for_a_share() -> None:
    with pytest.raises(LibraError, match="takes 8 blocks") as caught:
        build_cache(FASTLIBRA, hbm_blocks=7, specs=adapters(4))
    assert "share" not in str(caught.value)
    assert "more memory" in str(caught.value)


def test_padded_slots_take_the_size_of_the_largest_adapter() -> None:
    padded = build_cache(replace(POLICIES["vllm"], adapter_share=0.5), specs=adapters(1, 3))
    exact = build_cache(FASTLIBRA, specs=adapters(1, 3))
    sizes = [[int(c.tree.size[c.manager.adapter_node(name)]) for name in ("a0", "a1")] for c in (padded, exact)]
    assert sizes == [[6, 6], [2, 6]]
