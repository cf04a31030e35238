"""The order in which nodes leave: ascending score, ties to the deeper node, parents after their children."""

import gc
import weakref

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from libra.cache.tree import ABSENT, DependencyTree
from libra.cache.victims import RUN_LENGTH, HbmVictims, VictimOrder


def forest(parents: list[int]) -> tuple[DependencyTree, list[int]]:
    """KV nodes below the base model; ``parents[i]`` is the position of node i's parent, or -1."""
    tree = DependencyTree(60.0, capacity=2 * len(parents) + 8)
    root = tree.add_adapter(None, 0, 0, 0)
    nodes: list[int] = []
    for position, parent in enumerate(parents):
        (node,) = tree.add_kv(root if parent < 0 else nodes[parent], [1000 + position], [position], 1, 0.0)
        nodes.append(int(node))
    tree.unpin(np.array(nodes, dtype=np.intp))
    return tree, nodes


def order_of(tree: DependencyTree, nodes: list[int], scores: list[float], dependency: bool = True) -> HbmVictims:
    by_node = np.zeros(tree.capacity)
    by_node[nodes] = scores
    candidates = np.intersect1d(nodes, tree.evictable(leaves_only=dependency))
    return HbmVictims(tree, candidates.astype(np.intp), lambda asked: by_node[asked], made_s=0.0, dependency=dependency)


def take(tree: DependencyTree, order: VictimOrder, count: int) -> list[int]:
    """Takes ``count`` blocks' worth of victims and makes them leave."""
    victims = order.take(count, tree.size)
    tree.move(np.array(victims, dtype=np.intp), ABSENT)
    return victims


def drain(tree: DependencyTree, order: VictimOrder, batch: int = 1) -> list[int]:
    taken: list[int] = []
    while victims := take(tree, order, batch):
        taken += victims
    return taken


def test_lowest_score_first() -> None:
    tree, nodes = forest([-1, -1, -1])
    assert drain(tree, order_of(tree, nodes, [3.0, 1.0, 2.0])) == [nodes[1], nodes[2], nodes[0]]


def test_ties_go_to_the_deeper_node_and_then_to_the_lower_index() -> None:
    tree, nodes = forest([-1, 0, -1, -1])
    assert drain(tree, order_of(tree, nodes, [1.0] * 4)) == [nodes[1], nodes[0], nodes[2], nodes[3]]


def test_a_parent_joins_with_its_own_score_once_its_children_have_left() -> None:
    # A chain 0-1-2 that is cold at its root, and a lone node 3 in between.
    tree, nodes = forest([-1, 0, 1, -1])
    assert drain(tree, order_of(tree, nodes, [0.0, 1.0, 2.0, 1.5])) == [nodes[3], nodes[2], nodes[1], nodes[0]]


def test_a_node_pinned_since_is_passed_over() -> None:
    tree, nodes = forest([-1, -1, -1])
    order = order_of(tree, nodes, [1.0, 2.0, 3.0])
    tree.pin(np.array([nodes[1]]))
    assert drain(tree, order) == [nodes[0], nodes[2]]


def test_nobody_eligible_is_none() -> None:
    tree, nodes = forest([-1])
    tree.pin(np.array(nodes))
    assert order_of(tree, nodes, [1.0]).take(1, tree.size) == []
    assert order_of(tree, [], []).take(1, tree.size) == []


def test_an_order_outlives_the_growth_of_the_tree() -> None:
    tree, nodes = forest([-1, 0, 1])
    order = order_of(tree, nodes, [1.0, 1.0, 1.0])
    assert order.take(1, tree.size) == [nodes[2]]
    tree.move(np.array([nodes[2]]), ABSENT)
    tree.add_kv(nodes[1], range(5000, 5000 + 2 * tree.capacity), range(2 * tree.capacity), 1, 0.0)
    # Node 1 has a child again, a pinned one, so nobody may leave.
    assert order.take(1, tree.size) == []


def test_an_order_that_is_done_with_goes_without_the_garbage_collector() -> None:
    """There is one for every tick, and a simulation runs with the collector paused."""
    tree, nodes = forest([-1] * (3 * RUN_LENGTH))
    order = order_of(tree, nodes, [float(node) for node in nodes])
    take(tree, order, 1)
    gone = weakref.ref(order)
    gc.disable()
    try:
        del order
        assert gone() is None
    finally:
        gc.enable()


def test_a_parent_of_several_leaves_is_taken_once() -> None:
    tree, nodes = forest([-1, 0, 0])
    assert order_of(tree, nodes, [2.0, 1.0, 1.0]).take(9, tree.size) == [nodes[1], nodes[2], nodes[0]]


def test_more_candidates_than_a_run_come_in_one_order() -> None:
    count = 3 * RUN_LENGTH + 17
    tree, nodes = forest([-1] * count)
    scores = np.random.default_rng(0).integers(0, 40, count).astype(float)
    expected = [nodes[i] for i in np.lexsort((nodes, scores))]
    assert drain(tree, order_of(tree, nodes, scores.tolist())) == expected


@given(st.data())
def test_every_forest_leaves_leaf_by_leaf_and_always_by_the_lowest_score(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 25))
    parents = [data.draw(st.integers(-1, position - 1)) for position in range(size)]
    scores = data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=size, max_size=size))
    batch = data.draw(st.integers(1, 6))
    tree, nodes = forest(parents)
    rank = {node: (score, -int(tree.depth[node]), node) for node, score in zip(nodes, scores, strict=True)}
    taken = drain(tree, order_of(tree, nodes, scores), batch)
    position_of = {node: position for position, node in enumerate(nodes)}
    left: set[int] = set()
    for node in taken:
        with_children = {nodes[parent] for n, parent in enumerate(parents) if parent >= 0 and nodes[n] not in left}
        leaves = set(nodes) - left - with_children
        assert node == min(leaves, key=rank.__getitem__), position_of
        left.add(node)
    assert left == set(nodes)
