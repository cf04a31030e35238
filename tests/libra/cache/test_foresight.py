"""What a trace is said to ask of the cache, against what the tree sees when it runs."""

import numpy as np

from libra.cache.fastlibra import FASTLIBRA
from libra.cache.foresight import UNKNOWN, Foresight
from libra.engine.replay import replay
from libra.request import Request, Segment
from libra.tokens import adapter_seed
from tests.libra.builders import BLOCK_TOKENS, TINY, build_engine
from tests.libra.loads import session_load


def foresee(*requests: Request) -> Foresight:
    return Foresight.of(requests, BLOCK_TOKENS, TINY.vocab_size)


def turns() -> tuple[Request, Request]:
    """A first turn of 9 + 4 tokens, and a second that goes on from its answer."""
    first = Request(7, 1.0, "a0", 4, (Segment("question", 0, 9),), output="answer")
    history = (*first.prompt, Segment("answer", 0, 4), Segment("again", 0, 4))
    return first, Request(3, 2.5, "a0", 2, history, output="last")


def test_a_turn_uses_the_blocks_that_the_answer_before_it_made() -> None:
    future = foresee(*turns())
    second, first = (set(future.uses.of(row).tolist()) for row in range(2))
    assert future.request_ids.tolist() == [3, 7]
    # Blocks of 4: two in 9 prompt tokens, a third when the answer's first three have been fed back.
    assert (len(first), len(future.makes.of(1))) == (1 + 2, 1)
    assert first < second
    assert set(future.makes.of(1).tolist()) < second
    # The last prompt token is computed in any case, so its block cannot be found: 17 tokens, 4 blocks.
    assert len(second) == 1 + 4


def test_use_times_are_sorted_and_leave_out_the_making() -> None:
    future = foresee(*turns())
    first, times = future.use_times
    used_at = {cell: times[first[cell] : first[cell + 1]].tolist() for cell in range(future.num_cells)}
    (adapter,) = future.cells([adapter_seed("a0")]).tolist()
    assert used_at[adapter] == [1.0, 2.5]
    assert used_at[int(future.makes.of(1)[0])] == [2.5]
    assert sum(len(times) for times in used_at.values()) == len(future.uses.cells)


def test_labels_are_those_of_the_tree() -> None:
    load = session_load(40, ["a0", "a1", None], seed=2)
    engine = build_engine(FASTLIBRA, hbm_blocks=2000, host_blocks=100)
    replay(engine, load)
    tree, future = engine.manager.memory.tree, foresee(*load)
    labels = {tree.labels[node] for node in np.flatnonzero(tree.in_use & (tree.size > 0)).tolist()}
    unused = {adapter_seed("a2")}
    assert labels - unused == set(future.labels.tolist())
    assert future.is_adapter.sum() == 2


def test_a_label_that_is_never_used_is_unknown_and_so_is_every_label_to_no_trace() -> None:
    first, _ = turns()
    assert foresee(first).cells([adapter_seed("a1"), adapter_seed("a0")])[0] == UNKNOWN
    assert foresee().cells([1, 2]).tolist() == [UNKNOWN, UNKNOWN]
    assert foresee().uses_of(0).size == 0


def test_requests_that_are_left_out_use_and_make_nothing() -> None:
    first, second = turns()
    rest = foresee(first, second).without({second.id})
    assert rest.request_ids.tolist() == [first.id]
    assert rest.uses_of(second.id).size == 0
    assert rest.use_times.times.tolist() == [first.arrival_s] * 3
    assert rest.labels.tolist() == foresee(first, second).labels.tolist()
