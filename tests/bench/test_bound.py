"""The lower bound on miss bytes: right where the optimum is known, and below every policy."""

from dataclasses import asdict
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import POLICIES
from bench.bound import MissBound, cell_bytes, miss_bound
from bench.metrics import measure
from libra.cache.foresight import Foresight
from libra.engine.record import RequestRecord, RunResult
from libra.engine.replay import replay
from libra.request import Request, Segment
from libra.tokens import adapter_seed
from tests.baselines.golden_run import CACHE_SIZES, golden_engine, golden_load
from tests.libra.builders import BLOCK_BYTES, BLOCK_TOKENS, TINY, adapters, build_engine
from tests.libra.loads import session_load
from tests.libra.variants import VARIANTS

SPECS = adapters(1, 2, 1, 2, 1)
ADAPTER_BYTES = {adapter_seed(spec.adapter_id): spec.num_bytes(TINY) for spec in SPECS}


def admitted(number: int, at_s: float, until_s: float | None = None) -> RequestRecord:
    return RequestRecord(number, None, None, at_s, 8, 1, "finished", admitted_s=at_s, finish_s=until_s or at_s)


def paged(pages: list[int]) -> tuple[Foresight, list[RequestRecord]]:
    """A request per page, each for a prompt of its own block and nothing else, one after the other."""
    texts = [(Segment(f"page {page}", 0, BLOCK_TOKENS + 1),) for page in pages]
    requests = [Request(n, float(n), None, 1, text) for n, text in enumerate(texts)]
    return Foresight.of(requests, BLOCK_TOKENS, TINY.vocab_size), [admitted(n, float(n)) for n in range(len(pages))]


def fewest_misses(pages: list[int], capacity: int) -> int:
    """The optimum of paging by trying everything."""

    @cache
    def misses(place: int, held: frozenset[int]) -> int:
        if place == len(pages):
            return 0
        page = pages[place]
        if page in held:
            return misses(place + 1, held)
        wanted = held | {page}
        keeps = combinations(held, min(capacity - 1, len(held))) if len(wanted) > capacity else [tuple(held)]
        return 1 + min(misses(place + 1, frozenset((*kept, page))) for kept in keeps)

    return misses(0, frozenset())


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=14), st.integers(1, 4))
def test_for_single_pages_it_is_the_optimum(pages: list[int], capacity: int) -> None:
    future, records = paged(pages)
    bound = miss_bound(future, records, np.ones(future.num_cells), capacity)
    assert bound.num_bytes == fewest_misses(pages, capacity)
    assert bound.compulsory_bytes == len(set(pages))


def test_requests_admitted_at_once_need_a_page_once() -> None:
    future, records = paged([1, 1, 1])
    for record in records:
        record.admitted_s = 0.0
    assert miss_bound(future, records, np.ones(1), 1) == MissBound(1.0, 1.0)


def test_what_an_answer_leaves_is_no_miss_until_it_could_have_been_dropped() -> None:
    """A session's second turn needs the block that its first answer filled; another request comes in between."""
    opening, answer = Segment("q", 0, 2), Segment("a", 0, 3)
    first = Request(0, 0.0, None, 3, (opening,), output="a")
    other = Request(1, 2.0, None, 1, (Segment("x", 0, 9),))
    second = Request(2, 4.0, None, 1, (opening, answer, Segment("more", 0, 1)))
    future = Foresight.of([first, other, second], BLOCK_TOKENS, TINY.vocab_size)
    sizes = np.ones(future.num_cells)

    def bound(first_ends_s: float, capacity: float) -> float:
        records = [admitted(0, 0.0, first_ends_s), admitted(1, 2.0), admitted(2, 4.0)]
        return miss_bound(future, records, sizes, capacity).num_bytes

    compulsory = 2.0  # the other request's two blocks
    assert bound(first_ends_s=1.0, capacity=3) == compulsory
    assert bound(first_ends_s=1.0, capacity=2) == compulsory + 1
    # While the first answer is decoded nobody knows whether its block is there yet: it may come at no cost.
    assert bound(first_ends_s=3.0, capacity=2) == compulsory
    assert bound(first_ends_s=5.0, capacity=2) == compulsory


def test_a_run_that_admitted_nobody_missed_nothing() -> None:
    future, records = paged([1])
    records[0].admitted_s = None
    assert miss_bound(future, records, np.ones(1), 1) == MissBound(0.0, 0.0)


def bound_of(result: RunResult, load: list[Request], hbm_blocks: int) -> MissBound:
    future = Foresight.of(load, BLOCK_TOKENS, TINY.vocab_size)
    return miss_bound(future, result.records, cell_bytes(future, ADAPTER_BYTES, BLOCK_BYTES), hbm_blocks * BLOCK_BYTES)


def missed(result: RunResult) -> float:
    bytes_missed = measure(result).metrics["miss_bytes"]
    assert bytes_missed is not None
    return bytes_missed


@pytest.mark.parametrize("hbm_blocks", CACHE_SIZES)
def test_on_the_golden_trace_nobody_is_below_it_and_clairvoyant_is_nearest(hbm_blocks: int) -> None:
    load = golden_load()
    misses = {}
    for name in POLICIES:
        result = replay(golden_engine(name, hbm_blocks), load)
        bound = bound_of(result, load, hbm_blocks)
        misses[name] = missed(result)
        assert bound.compulsory_bytes <= bound.num_bytes <= misses[name], name
    assert misses["clairvoyant"] == min(misses.values())


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(VARIANTS)),
    seed=st.integers(0, 1000),
    hbm_blocks=st.integers(30, 90),
    mean_gap_s=st.sampled_from([0.01, 0.1]),
)
def test_no_policy_is_below_it_whatever_the_load(name: str, seed: int, hbm_blocks: int, mean_gap_s: float) -> None:
    """Preemptions, requests that pass others, twins and prefetches among them."""
    load = session_load(30, [*(spec.adapter_id for spec in SPECS), None], seed, mean_gap_s)
    result = replay(build_engine(VARIANTS[name], hbm_blocks, 60, SPECS), load)
    assert bound_of(result, load, hbm_blocks).num_bytes <= missed(result), asdict(VARIANTS[name])
