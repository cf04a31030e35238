"""Each ablation is fastlibra with one thing changed, and what that does shows."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from baselines import POLICIES
from baselines.ablations import ABLATIONS
from baselines.oracle import ORACLES
from libra.cache.cost_model import CostModel
from libra.cache.fastlibra import FASTLIBRA
from libra.engine.replay import replay
from tests.libra.builders import BLOCK_TOKENS, EngineConfig, adapters, build_cache, build_engine, request, serve
from tests.libra.loads import session_load


def changed(one: object, other: object) -> list[str]:
    """Names of the fields in which two dataclasses of one type differ."""
    names = [field.name for field in fields(one) if field.name not in ("name", "summary")]  # type: ignore[arg-type]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("wom", "dependency"),
        ("wos", "ranker"),
        ("wol", "ranker"),
        ("woc", "ranker"),
        ("wov", "ranker"),
        ("wou", "ranker"),
        ("bfs", "swap_unit"),
        *(
            (name, "ranker")
            for name in ("lru", "order-only", "lfu", "rrip", "hawkeye", "halp", "gdsf", "s3fifo", "arc")
        ),
    ],
)
def test_it_differs_from_fastlibra_in_one_field(name: str, field: str) -> None:
    assert changed(POLICIES[name], FASTLIBRA) == [field]


@pytest.mark.parametrize(
    ("name", "switch"),
    [("wol", "use_adapter_eval"), ("woc", "use_cost"), ("wov", "use_visits"), ("wou", "use_recency")],
)
def test_its_cost_model_differs_in_one_switch(name: str, switch: str) -> None:
    ranker = POLICIES[name].ranker
    assert isinstance(ranker, CostModel)
    assert changed(ranker, FASTLIBRA.ranker) == [switch]


def test_every_ablation_of_the_paper_is_there() -> None:
    assert {policy.name for policy in ABLATIONS} == {"wom", "wom-last", "wos", "wol", "woc", "wov", "wou", "bfs"}
    assert changed(POLICIES["wom-last"], POLICIES["wom"]) == ["visit_scope"]


def test_only_without_the_dependency_rule_is_there_invalid_kv() -> None:
    load = session_load(80, ["a0", "a1", "a2", "a3"], seed=4, mean_gap_s=0.1)
    config = EngineConfig(block_tokens=BLOCK_TOKENS, timeline_s=0.02)
    invalid = {}
    for name in ("fastlibra", "wom-last"):
        engine = build_engine(POLICIES[name], 40, 200, adapters(1, 2, 1, 2), config)
        invalid[name] = max(replay(engine, load).timeline["invalid_blocks"])
    assert invalid["fastlibra"] == 0
    assert invalid["wom-last"] > 0


def test_a_branch_leaves_as_one_and_what_is_in_use_stays() -> None:
    cache = build_cache(replace(POLICIES["bfs"], swapper=None), hbm_blocks=24)
    for number, adapter in enumerate(("a0", "a1", "a0")):
        serve(cache, request(number, [number] * 9, [1], adapter))
        cache.pass_time(1.0)
    tree = cache.tree
    first, second = (cache.manager.adapter_node(name) for name in ("a0", "a1"))
    branch = [node for node in range(tree.capacity) if tree.in_use[node] and tree.adapter[node] == second]
    others = [node for node in range(tree.capacity) if tree.in_use[node] and tree.adapter[node] == first]
    assert len(branch) == 3
    assert len(others) == 5
    cache.memory.evict(0, 1)  # one block is asked for, the less used branch goes
    cache.settle()
    assert not tree.hbm[branch].any()
    assert tree.hbm[others].all()


def test_every_policy_has_a_row_in_the_docs() -> None:
    rows = (Path(__file__).parents[2] / "docs" / "policies.md").read_text().splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    documented = {name.strip(" `") for cell in cells for name in cell.split(",")}
    assert documented == {*POLICIES, *ORACLES}
