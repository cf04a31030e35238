"""Rankings against small independent implementations of what their papers say, one eviction at a time."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import POLICIES
from baselines.chameleon import ChameleonScore
from baselines.halp import PreferenceNetwork
from baselines.hawkeye import OptGen
from baselines.node_state import Ghosts, oldest
from baselines.rrip import LEADER_CLASSES, LONG_INSERTIONS
from libra.cache.policy import RankingContext
from libra.cache.tree import PRESENT, DependencyTree
from libra.spec import AdapterSpec
from libra.tokens import adapter_seed
from tests.baselines.adapter_trace import count_misses, zipf_trace

LEARNERS = ("rrip", "hawkeye", "halp", "gdsf", "s3fifo", "arc", "lfu")


# ---- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_one_off_adapters_and_a_new_order_of_popularity_cost_it_less_than_lru(name: str) -> None:
    trace = zipf_trace(600, 80, 0.9, seed=1)
    assert count_misses(POLICIES[name], trace, 20) < count_misses(POLICIES["lru"], trace, 20)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_run_leaves_nothing_behind_in_the_policy(name: str) -> None:
    trace = zipf_trace(150, 40, 0.9, seed=2)
    assert count_misses(POLICIES[name], trace, 10) == count_misses(POLICIES[name], trace, 10)


# ---- rrip ----------------------------------------------------------------------------------------------------------


def drrip_misses(trace: list[int], capacity: int) -> int:
    """DRRIP with 2-bit counters as the paper tells it: search for a 3, age everybody, search again."""
    counters: OrderedDict[int, int] = OrderedDict()  # by last use
    selector = num_distant = misses = 0
    for adapter in trace:
        if adapter in counters:
            counters[adapter] = 0
            counters.move_to_end(adapter)
            continue
        misses += 1
        if len(counters) == capacity:
            while 3 not in counters.values():
                for other in counters:
                    counters[other] += 1
            del counters[next(other for other, counter in counters.items() if counter == 3)]
        leads = adapter_seed(f"a{adapter}") % LEADER_CLASSES
        selector += {0: 1, 1: -1}.get(leads, 0)
        if leads == 1 or (leads != 0 and selector > 0):
            num_distant += 1
            counters[adapter] = 2 if num_distant % LONG_INSERTIONS == 0 else 3
        else:
            counters[adapter] = 2
    return misses


@pytest.mark.parametrize("capacity", [8, 20, 40])
def test_rrip_misses_what_the_paper_would(capacity: int) -> None:
    trace = zipf_trace(600, 80, 0.8, seed=capacity)
    assert count_misses(POLICIES["rrip"], trace, capacity) == drrip_misses(trace.tolist(), capacity)


# ---- hawkeye -------------------------------------------------------------------------------------------------------


def belady_hits(trace: list[int], capacity: int) -> int:
    """Most hits possible when what is missed need not be kept (Belady's MIN with bypass), by next uses."""
    hits, held = 0, set[int]()
    for now, item in enumerate(trace):
        hits += item in held
        held.add(item)

        def next_use(other: int, after: int = now + 1) -> int:
            return trace.index(other, after) if other in trace[after:] else len(trace)

        if len(held) > capacity:
            held.remove(max(held, key=next_use))
    return hits


@settings(max_examples=60)
@given(trace=st.lists(st.integers(0, 7), min_size=1, max_size=60), capacity=st.integers(1, 6))
def test_optgen_counts_the_hits_of_belady(trace: list[int], capacity: int) -> None:
    optgen = OptGen()
    verdicts = [optgen.use(item, 1, 0, capacity) for item in trace]
    assert sum(verdict is not None and verdict[1] for verdict in verdicts) == belady_hits(trace, capacity)


def test_optgen_lets_a_large_node_in_only_where_it_fits_and_forgets_in_time() -> None:
    optgen = OptGen()
    uses = [("small", 1), ("large", 4), ("small", 1), ("large", 4)]
    verdicts = [optgen.use(hash(name), size, size, capacity=4) for name, size in uses]
    assert verdicts == [None, None, (1, True), (4, False)]
    for label in range(100, 200):
        optgen.use(label, 1, 9, capacity=4)
    gone = optgen.expired(capacity=4)
    assert gone[:2] == [1, 4]
    assert len(gone) == 2 + 100 - 32
    assert optgen.use(hash("small"), 1, 1, capacity=4) is None
    for label in range(3000):  # longer than the history it keeps room for
        optgen.use(label % 3, 1, 0, capacity=4)
    assert optgen.use(0, 1, 0, capacity=4) == (0, True)


# ---- halp ----------------------------------------------------------------------------------------------------------


def test_the_network_learns_a_preference_and_is_the_same_for_a_seed() -> None:
    networks = [PreferenceNetwork(3, 8, 0.05, seed) for seed in (1, 1, 2)]
    generator = np.random.default_rng(0)
    pairs = generator.normal(size=(400, 2, 3))
    for first, second in pairs:
        sooner, later = (first, second) if first[1] > second[1] else (second, first)
        for network in networks:
            network.learn(sooner, later)
    probes = generator.normal(size=(200, 2, 3))
    values = [networks[0].values(probes[:, side]) for side in (0, 1)]
    right = (values[0] > values[1]) == (probes[:, 0, 1] > probes[:, 1, 1])
    assert right.mean() > 0.9
    assert networks[0].values(probes[:, 0]).tolist() == networks[1].values(probes[:, 0]).tolist()
    assert networks[0].values(probes[:, 0]).tolist() != networks[2].values(probes[:, 0]).tolist()


# ---- chameleon -----------------------------------------------------------------------------------------------------


def test_chameleon_weighs_frequency_recency_and_size_as_published() -> None:
    tree = DependencyTree(1e9)
    nodes = np.array([tree.add_adapter(AdapterSpec(name, 8), size, size, 100) for name, size in (("a", 8), ("b", 2))])
    tree.touch(nodes, 0.0, visits=1)
    tree.touch(nodes[1:], 5.0, visits=1)
    context = RankingContext(10.0, "out", "hbm", 2, 1.0, 1e9, 1e9, 0.001)
    # a: half the visits of b, last used at 0 of 10 s, the largest. b: most visits, used at 5 s, a quarter of the size.
    scores = ChameleonScore().score(tree, nodes, context)
    assert scores == pytest.approx([0.45 * 0.5 + 0.45, 0.45 + 0.10 * 0.5 + 0.45 * 0.25], rel=1e-6)


# ---- what they are built from --------------------------------------------------------------------------------------


def test_ghosts_forget_the_oldest_first_and_count_blocks() -> None:
    ghosts = Ghosts()
    for label, size in ((1, 4), (2, 1), (3, 2), (1, 4)):
        ghosts.add(label, size)
    assert ghosts.num_blocks == 7
    ghosts.shrink_to(6)
    assert [label in ghosts for label in (1, 2, 3)] == [True, False, True]
    assert ghosts.discard(3)
    assert not ghosts.discard(3)
    assert ghosts.num_blocks == 4


def test_the_oldest_nodes_that_hold_so_many_blocks() -> None:
    tree = DependencyTree(60.0)
    nodes = [tree.add_adapter(AdapterSpec(f"a{size}", 1), size, size, 1) for size in (3, 1, 2)]
    tree.hbm[nodes] = PRESENT
    tree.last_use[nodes] = [1.0, 2.0, 3.0]
    mask = tree.hbm == PRESENT
    limits = [oldest(tree, mask & tree.is_adapter, tree.last_use, blocks) for blocks in (-1, 0, 1, 3, 4, 6, 99)]
    assert limits == [-np.inf, -np.inf, 1.0, 1.0, 2.0, 3.0, 3.0]
