"""Matching, isolation, removal and the proof of the invariants."""

import numpy as np
import pytest

from libra.cache.tree import ABSENT, LEAVING, LOADING, PRESENT, ROOT, SAVING, DependencyTree, Residency
from libra.spec import AdapterSpec


def tree_with(*adapter_ids: str, capacity: int = 64) -> tuple[DependencyTree, list[int]]:
    """A tree with adapters of 2 blocks in HBM."""
    tree = DependencyTree(60.0, capacity)
    tree.add_adapter(None, 0, 0, 0)
    nodes = [tree.add_adapter(AdapterSpec(name, 8), 2, 2, 200) for name in adapter_ids]
    for node in nodes:
        tree.move(np.array([node]), PRESENT)
    return tree, nodes


def add_chain(tree: DependencyTree, parent: int, *labels: int) -> list[int]:
    """KV nodes in HBM, unpinned."""
    nodes = tree.add_kv(parent, labels, range(len(labels)), 100, now_s=0.0)
    tree.unpin(nodes)
    return [int(node) for node in nodes]


def move(tree: DependencyTree, node: int, state: int) -> None:
    tree.move(np.array([node]), state)


def leave(tree: DependencyTree, node: int, host: int = ABSENT) -> None:
    tree.move(np.array([node]), ABSENT)
    tree.host[node] = host


# ---- matching ------------------------------------------------------------------------------------------------------


def test_match_finds_the_longest_prefix() -> None:
    tree, (a,) = tree_with("a")
    chain = add_chain(tree, a, 11, 12, 13)
    assert tree.match(a, [11, 12, 13, 14]).tolist() == chain
    assert tree.match(a, [11, 12]).tolist() == chain[:2]
    assert tree.match(a, [11, 99, 13]).tolist() == chain[:1]
    assert tree.match(a, [12, 13]).tolist() == []
    assert tree.match(a, []).tolist() == []


def test_a_planted_collision_never_matches_another_adapters_kv() -> None:
    tree, (a, b) = tree_with("a", "b")
    chain = add_chain(tree, a, 11, 12)
    # The same labels asked under b, as if the hashes of b's tokens had collided with a's.
    assert tree.match(b, [11, 12]).tolist() == []
    # A collision in mid-chain: b's own first block, then a label that belongs to a.
    (own,) = add_chain(tree, b, 21)
    assert tree.match(b, [21, 12]).tolist() == [own]
    assert tree.match(a, [11, 12]).tolist() == chain
    assert tree.find(own, 12) is None
    assert tree.find(chain[0], 12) == chain[1]


@pytest.mark.parametrize(
    ("hbm", "host", "usable"),
    [
        (PRESENT, ABSENT, True),
        (PRESENT, PRESENT, True),
        (LOADING, PRESENT, True),
        (LEAVING, SAVING, True),
        (ABSENT, PRESENT, True),
        (ABSENT, ABSENT, False),
    ],
)
def test_match_stops_at_the_first_node_that_no_tier_holds(hbm: int, host: int, usable: bool) -> None:
    tree, (a,) = tree_with("a")
    chain = add_chain(tree, a, 11, 12, 13)
    tree.move(np.array([chain[1]]), hbm)
    tree.host[chain[1]] = host
    assert tree.match(a, [11, 12, 13]).tolist() == (chain if usable else chain[:1])


# ---- growing and removing ------------------------------------------------------------------------------------------


def test_removal_cascades_to_parents_that_hold_nothing() -> None:
    tree, (a,) = tree_with("a")
    chain = add_chain(tree, a, 11, 12, 13)
    leave(tree, chain[0])
    tree.remove_if_gone(chain[0])
    leave(tree, chain[1])
    tree.remove_if_gone(chain[1])
    assert tree.match(a, [11]).tolist() == []
    assert len(tree) == 2 + 3, "a node with children stays"
    leave(tree, chain[2])
    tree.remove_if_gone(chain[2])
    assert len(tree) == 2, "and goes with the last of them"
    assert tree.children[a] == 0
    tree.check(dependency=True)


def test_removal_spares_what_is_held_pinned_or_on_host() -> None:
    tree, (a,) = tree_with("a")
    present, on_host, pinned = (add_chain(tree, a, label)[0] for label in (11, 12, 13))
    leave(tree, on_host, host=PRESENT)
    leave(tree, pinned)
    tree.pins[pinned] = 1
    for node in (present, on_host, pinned, a):
        tree.remove_if_gone(node)
        assert tree.in_use[node]


def test_a_removed_label_can_be_used_again_and_starts_afresh() -> None:
    tree, (a, b) = tree_with("a", "b")
    (old,) = add_chain(tree, a, 11)
    tree.touch(np.array([old]), 5.0, visits=1)
    leave(tree, old)
    tree.remove_if_gone(old)
    (new,) = add_chain(tree, b, 11)
    assert tree.adapter[new] == b
    assert tree.log_visits[new] == 0.0
    assert tree.match(a, [11]).tolist() == []


def test_the_tree_grows_beyond_its_first_capacity() -> None:
    tree, (a,) = tree_with("a", capacity=4)
    chain = add_chain(tree, a, *range(100, 150))
    assert tree.match(a, range(100, 150)).tolist() == chain  # type: ignore[arg-type]
    assert len(tree) == 52
    tree.check(dependency=True)


def test_an_adapter_is_registered_once() -> None:
    tree, _ = tree_with("a")
    with pytest.raises(ValueError, match="already"):
        tree.add_adapter(AdapterSpec("a", 8), 2, 2, 200)


# ---- counts --------------------------------------------------------------------------------------------------------


def test_evictable_and_leaving_blocks_follow_states_and_pins() -> None:
    tree, (a,) = tree_with("a")
    chain = add_chain(tree, a, 11, 12)
    assert tree.evictable_blocks == [2, 2]
    tree.pin(np.array([a, chain[0]]))
    assert tree.evictable_blocks == [1, 0]
    tree.move(np.array([chain[1]]), LEAVING)
    assert (tree.evictable_blocks, tree.leaving_blocks) == ([0, 0], [1, 0])
    tree.move(np.array([chain[1]]), ABSENT)
    tree.unpin(np.array([a, chain[0]]))
    assert (tree.evictable_blocks, tree.leaving_blocks) == ([1, 2], [0, 0])


def test_adapters_in_hbm_counts_what_is_loading_and_leaves_out_the_base_model() -> None:
    tree, (a, b) = tree_with("a", "b")
    assert tree.adapters_in_hbm == 2
    tree.move(np.array([a]), LEAVING)
    assert tree.adapters_in_hbm == 1
    tree.move(np.array([a]), ABSENT)
    tree.move(np.array([a]), LOADING)
    assert tree.adapters_in_hbm == 2
    assert b in tree.adapter_ids


@pytest.mark.parametrize(
    ("hbm", "host", "residency"),
    [
        (PRESENT, PRESENT, Residency.HBM),
        (LOADING, PRESENT, Residency.LOADING),
        (LEAVING, SAVING, Residency.SAVING),
        (ABSENT, PRESENT, Residency.HOST),
    ],
)
def test_residency_in_one_word(hbm: int, host: int, residency: Residency) -> None:
    tree, (a,) = tree_with("a")
    tree.move(np.array([a]), hbm)
    tree.host[a] = host
    assert tree.residency(a) is residency


def test_an_adapter_nowhere_is_on_disk_and_a_block_nowhere_is_gone() -> None:
    tree, (a,) = tree_with("a")
    (block,) = add_chain(tree, a, 11)
    leave(tree, block)
    leave(tree, a)
    assert tree.residency(a) is Residency.DISK
    assert tree.residency(block) is Residency.GONE


# ---- views ---------------------------------------------------------------------------------------------------------


def test_kv_is_usable_only_with_its_adapter_and_its_whole_prefix() -> None:
    tree, (a, b) = tree_with("a", "b")
    chain_a, chain_b = add_chain(tree, a, 11, 12, 13), add_chain(tree, b, 21, 22)
    leave(tree, chain_a[1], host=PRESENT)
    leave(tree, b, host=PRESENT)
    usable = tree.usable_in_hbm()
    assert [bool(usable[node]) for node in (*chain_a, *chain_b)] == [True, False, False, False, False]


# ---- proof ---------------------------------------------------------------------------------------------------------


def corrupt_parent(tree: DependencyTree, a: int, chain: list[int]) -> None:
    tree.move(np.array([chain[0]]), ABSENT)


def corrupt_pins(tree: DependencyTree, a: int, chain: list[int]) -> None:
    tree.pin(np.array([chain[1]]))


def corrupt_negative_pins(tree: DependencyTree, a: int, chain: list[int]) -> None:
    tree.pins[chain[1]] = -1


def corrupt_adapter(tree: DependencyTree, a: int, chain: list[int]) -> None:
    tree.adapter[chain[1]] = chain[0]


def corrupt_children(tree: DependencyTree, a: int, chain: list[int]) -> None:
    tree.children[chain[0]] = 0


def corrupt_evictable(tree: DependencyTree, a: int, chain: list[int]) -> None:
    tree.evictable_blocks[0] += 1


def corrupt_label(tree: DependencyTree, a: int, chain: list[int]) -> None:
    tree.labels[chain[0]] = 99


@pytest.mark.parametrize(
    ("corrupt", "fault"),
    [
        (corrupt_parent, "without its parent"),
        (corrupt_pins, "unpinned ancestor"),
        (corrupt_negative_pins, "negative pins"),
        (corrupt_adapter, "crossed adapters"),
        (corrupt_children, "miscounts its children"),
        (corrupt_evictable, "evictable_blocks"),
        (corrupt_label, "does not carry it"),
    ],
)
def test_check_finds_every_planted_fault(corrupt, fault: str) -> None:  # type: ignore[no-untyped-def]
    tree, (a,) = tree_with("a")
    chain = add_chain(tree, a, 11, 12)
    tree.check(dependency=True)
    corrupt(tree, a, chain)
    with pytest.raises(AssertionError, match=fault):
        tree.check(dependency=True)


def test_without_the_dependency_rule_a_parent_may_be_away() -> None:
    tree, (a,) = tree_with("a")
    chain = add_chain(tree, a, 11, 12)
    leave(tree, chain[0], host=PRESENT)
    tree.check(dependency=False)
    assert tree.parent[chain[0]] == a
    assert tree.parent[a] == ROOT
