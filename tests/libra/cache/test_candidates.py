"""A list of nodes that meet a condition, against looking at every node."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from libra.cache.candidates import Candidates

NUM_NODES = 12


@given(st.lists(st.tuples(st.integers(0, NUM_NODES - 1), st.booleans(), st.booleans())))
def test_it_holds_who_meets_the_condition_in_order_and_once(changes: list[tuple[int, bool, bool]]) -> None:
    meets = np.zeros(NUM_NODES, dtype=np.bool_)
    candidates = Candidates(lambda nodes: meets[nodes])
    for node, value, is_read in changes:
        meets[node] = value
        if value:
            candidates.add([node])
        if is_read:
            assert candidates.read().tolist() == np.flatnonzero(meets).tolist()
    assert candidates.read().tolist() == np.flatnonzero(meets).tolist()


def test_what_nobody_reads_does_not_pile_up() -> None:
    candidates = Candidates(lambda nodes: nodes < 2)
    for _ in range(3 * Candidates.FEWEST_UNREAD):
        candidates.add([1, 7])
    assert len(candidates._added) <= Candidates.FEWEST_UNREAD
    assert candidates.read().tolist() == [1]
