"""The ranking by next use: what it prefers, when it looks on, and that nobody misses less."""

from dataclasses import replace

import numpy as np
import pytest

from baselines import POLICIES
from baselines.clairvoyant import NextUse
from libra.cache.foresight import Foresight
from libra.cache.policy import Swap, Tier
from libra.engine.replay import replay
from libra.errors import LibraError
from libra.request import Request
from tests.libra.builders import BLOCK_TOKENS, TINY, Cache, adapters, build_cache, build_engine, request, serve

CLAIRVOYANT = replace(POLICIES["clairvoyant"], swapper=None)


def told(cache: Cache, *coming: Request) -> Cache:
    cache.memory.ranker.foresee(Foresight.of(coming, BLOCK_TOKENS, TINY.vocab_size))
    return cache


def order_of_adapters(cache: Cache, swap: Swap = "out", tier: Tier = "hbm") -> list[str]:
    """Adapters, the first to leave first."""
    nodes = np.array([cache.tree.adapter_nodes[f"a{n}"] for n in range(3)])
    scores = cache.memory.scores(swap, tier)(nodes)
    return [f"a{n}" for n in np.argsort(scores, kind="stable")]


def test_it_is_fastlibra_with_another_ranking() -> None:
    own, published = (POLICIES[name].settings() for name in ("clairvoyant", "fastlibra"))
    assert {field for field in own if own[field] != published[field]} == {"name", "summary", "ranker"}


def test_what_is_used_last_leaves_first_and_what_is_never_used_before_that() -> None:
    cache = told(build_cache(CLAIRVOYANT), request(0, adapter="a2", arrival_s=9.0), request(1, arrival_s=5.0))
    assert order_of_adapters(cache) == ["a1", "a2", "a0"]


def test_an_admitted_request_is_no_future_use() -> None:
    now, soon, late = (request(n, adapter=f"a{n % 2}", arrival_s=4.0 * n) for n in range(3))
    cache = told(build_cache(CLAIRVOYANT), now, soon, late)
    assert order_of_adapters(cache) == ["a2", "a1", "a0"]
    serve(cache, now)
    assert order_of_adapters(cache) == ["a2", "a0", "a1"]


def test_one_that_waits_is_due_however_long_ago_it_arrived() -> None:
    cache = told(build_cache(CLAIRVOYANT), request(0, arrival_s=1.0), request(1, adapter="a1", arrival_s=8.0))
    cache.pass_time(7.0)
    assert order_of_adapters(cache) == ["a2", "a1", "a0"]


def test_a_slot_full_of_padding_is_worth_less_than_one_full_of_weights() -> None:
    padded = replace(CLAIRVOYANT, adapter_slots="padded")
    cache = build_cache(padded, hbm_blocks=24, specs=adapters(1, 3, 1))
    told(cache, *(request(n, adapter=f"a{n}", arrival_s=5.0) for n in range(3)))
    assert order_of_adapters(cache)[-1] == "a1"


def test_without_a_trace_it_says_what_it_needs() -> None:
    cache = build_cache(CLAIRVOYANT)
    cache.memory.ranker = NextUse()
    with pytest.raises(LibraError, match="whole trace beforehand"):
        order_of_adapters(cache)


def test_a_request_that_can_never_fit_is_not_waited_for() -> None:
    """Its adapter would be due for ever, since nobody ever admits it."""
    coming = [
        request(0, prompt=range(400), arrival_s=0.0),
        *(request(n, (n,) * 9, (1,), "a1", 0.5 * n) for n in (1, 2)),
    ]
    engine = build_engine(CLAIRVOYANT)
    replay(engine, coming)
    cell = engine.manager.memory.ranker._future().use_times  # type: ignore[attr-defined]
    assert cell.times.min() == 0.5
