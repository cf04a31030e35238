"""Equations 3 to 6 against numbers worked by hand, then against their literal form."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.cache.cost_model import CostModel, Eq4, log_adapter_eval, log_recency, low_lora
from libra.cache.policy import RankingContext, Swap
from libra.cache.tree import NEVER_VISITED, DependencyTree
from libra.cache.usage import DemandWindow
from libra.errors import LibraError
from libra.spec import AdapterSpec

HALF_LIFE_S = 60.0


def context(now_s: float = 0.0, swap: Swap = "out", adapters_in_hbm: int = 10, low: float = 20.0) -> RankingContext:
    return RankingContext(now_s, swap, "hbm", adapters_in_hbm, low, 4e9, 1e9, recompute_s_per_block=0.001)


def one_adapter_one_block(adapter_bytes: int = 27 << 22, kv_bytes: int = 1 << 22) -> tuple[DependencyTree, int, int]:
    """A tree with one adapter and one KV block below it."""
    tree = DependencyTree(HALF_LIFE_S)
    adapter = tree.add_adapter(AdapterSpec("a", 64), 27, 27, adapter_bytes)
    (block,) = tree.add_kv(adapter, [7], [0], kv_bytes, now_s=0.0).tolist()
    return tree, adapter, block


# ---- Eq. 3 ---------------------------------------------------------------------------------------------------------


def test_eq3_by_hand() -> None:
    # (1 - 0.5^4) + (1 - 0.7^4) + (1 - 0.8^4) = 0.9375 + 0.7599 + 0.5904
    assert low_lora(np.array([0.5, 0.3, 0.2]), 4.0) == pytest.approx(2.2878)


def test_eq3_of_one_request_at_a_time_is_one_adapter() -> None:
    # With BS = 1 the sum is the sum of the shares.
    assert low_lora(np.array([0.5, 0.3, 0.2]), 1.0) == pytest.approx(1.0)


def test_demand_window_feeds_eq3_with_decayed_shares_and_the_mean_batch() -> None:
    window = DemandWindow(half_life_s=10.0)
    window.note_request(1, 0.0)
    window.note_request(1, 0.0)
    window.note_request(2, 10.0)
    window.note_batch(9.0, 2)
    window.note_batch(10.0, 4)
    # At 10 s the two old requests weigh one half each: shares 1/2 and 1/2. BS = (2 + 4) / 2 = 3. 2 * (1 - 0.5^3) = 1.75
    assert window.low_lora(10.0) == pytest.approx(1.75)
    # One half-life later both have halved: the shares stay.
    assert window.low_lora(20.0) == pytest.approx(1.75)


def test_demand_window_forgets_batches_after_five_seconds() -> None:
    window = DemandWindow(half_life_s=10.0)
    window.note_request(1, 0.0)
    window.note_request(2, 0.0)
    window.note_batch(0.0, 100)
    window.note_batch(5.0, 2)
    # Only the batch of 2 is left: 2 * (1 - 0.5^2) = 1.5
    assert window.low_lora(5.0) == pytest.approx(1.5)


def test_requests_for_the_base_model_dilute_the_shares_but_need_no_adapter() -> None:
    window = DemandWindow(half_life_s=10.0)
    window.note_request(1, 0.0)
    for _ in range(3):
        window.note_request(None, 0.0)
    window.note_batch(0.0, 2)
    # The adapter's share is 1/4; the base model is no candidate. 1 - 0.75^2 = 0.4375
    assert window.low_lora(0.0) == pytest.approx(0.4375)


def test_an_adapter_that_is_no_more_has_no_share() -> None:
    window = DemandWindow(half_life_s=10.0)
    for node in (1, 2, 2, 3):
        window.note_request(node, 0.0)
    window.forget(2)
    window.forget(7)
    window.note_request(3, 0.0)
    window.note_batch(0.0, 2)
    # Counts of 1 and 2 are left: shares 1/3 and 2/3. 1 - (2/3)^2 + 1 - (1/3)^2 = 13/9
    assert window.low_lora(0.0) == pytest.approx(13 / 9)


def test_a_window_that_has_seen_nothing_expects_no_adapter() -> None:
    assert DemandWindow(10.0).low_lora(3.0) == 0.0


# ---- Eq. 4 ---------------------------------------------------------------------------------------------------------

BOTH = np.array([True, False])  # an adapter node, a KV node


@pytest.mark.parametrize(
    ("reading", "swap", "adapter", "kv"),
    [
        # Low = 20, Now = 10. Out: 9 adapters are left if the adapter goes. In: 11 if it comes.
        ("hpca", "out", 9 / 20, 10 / 20),  # 0.45 < 0.50: the scarce adapter goes first, which is wrong
        ("hpca", "in", 11 / 20, 10 / 20),  # 0.55 > 0.50
        ("v1", "out", 20 / 9, 20 / 10),  # 2.22 > 2.0
        ("v1", "in", 20 / 11, 20 / 10),  # 1.82 < 2.0: the scarce adapter comes last, which is wrong
        ("lora_only", "out", 20 / 9, 1.0),
        ("lora_only", "in", 20 / 11, 1.0),
    ],
)
def test_eq4_where_the_published_forms_disagree(reading: Eq4, swap: Swap, adapter: float, kv: float) -> None:
    values = np.exp(log_adapter_eval(reading, BOTH, swap, adapters_in_hbm=10, low=20.0))
    assert values == pytest.approx([adapter, kv])


@pytest.mark.parametrize("reading", ["hpca", "v1", "lora_only"])
@pytest.mark.parametrize("swap", ["out", "in"])
def test_eq4_says_nothing_when_adapters_abound(reading: Eq4, swap: Swap) -> None:
    assert log_adapter_eval(reading, BOTH, swap, adapters_in_hbm=30, low=20.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("reading", ["hpca", "v1", "lora_only"])
def test_eq4_stays_finite_at_the_edges(reading: Eq4) -> None:
    for count, low in ((0, 0.0), (1, 0.0), (0, 5.0), (1, 5.0)):
        for swap in ("out", "in"):
            assert np.isfinite(log_adapter_eval(reading, BOTH, swap, count, low)).all()  # type: ignore[arg-type]


# ---- Eq. 5 and 6 ---------------------------------------------------------------------------------------------------


def test_eq5_by_hand() -> None:
    tree, _, block = one_adapter_one_block(kv_bytes=8 * 10**9)
    tree.log_visits[block] = math.log(3)
    # cost = 8e9 / 4e9 = 2 s. t = tau ln 3, so sigmoid = 3 / (3 + 1) and 1 - sigmoid = 1/4.
    # Visits: 3 at the last use, decayed over t: 3 * 0.5^(t / 60).
    now_s = 60.0 * math.log(3)
    visits = 3 * 0.5 ** math.log(3)
    model = CostModel(tau_s=60.0, use_adapter_eval=False)
    score = model.score(tree, np.array([block]), context(now_s))
    assert np.exp(score) == pytest.approx([2 * visits * 0.25])


def test_eq6_multiplies_eq4_and_eq5() -> None:
    tree, adapter, block = one_adapter_one_block(adapter_bytes=4 * 10**9, kv_bytes=10**9)
    tree.log_visits[[adapter, block]] = 0.0
    # t = 0: 1 - sigmoid = 1/2. Adapter: 20/9 * 1 s * 1 * 1/2. KV block: 1 * 0.25 s * 1 * 1/2.
    scores = CostModel().score(tree, np.array([adapter, block]), context())
    assert np.exp(scores) == pytest.approx([20 / 9 / 2, 0.125])


def test_nodes_older_than_37_tau_are_still_in_order() -> None:
    idle_s = np.array([36.0, 37.0, 38.0, 38.001, 1e3, 1e6])
    assert 1.0 - 1.0 / (1.0 + math.exp(-38.0)) == 0.0, "the literal form ties them all at 0"
    scores = log_recency(idle_s, tau_s=1.0)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()


def test_recency_of_a_node_just_used_is_one_half() -> None:
    assert np.exp(log_recency(np.array([0.0]), 60.0)) == pytest.approx([0.5])


@settings(max_examples=200)
@given(
    idle_s=st.floats(0, 1500),
    visits=st.floats(0.01, 1e4),
    num_bytes=st.integers(1, 10**10),
    tau_s=st.floats(50, 500),
    in_hbm=st.integers(2, 100),
    low=st.floats(0.1, 100),
)
def test_log_domain_equals_the_literal_product(
    idle_s: float, visits: float, num_bytes: int, tau_s: float, in_hbm: int, low: float
) -> None:
    tree, adapter, _ = one_adapter_one_block(adapter_bytes=num_bytes)
    tree.log_visits[adapter] = math.log(visits)
    decayed = max(visits * 0.5 ** (idle_s / HALF_LIFE_S), math.exp(NEVER_VISITED))
    # 1 - sigmoid(x) written as sigmoid(-x), which keeps its digits.
    literal = max(1, low / (in_hbm - 1)) * num_bytes / 4e9 * decayed / (1 + math.exp(idle_s / tau_s))
    score = CostModel(tau_s=tau_s).score(tree, np.array([adapter]), context(idle_s, "out", in_hbm, low))
    assert float(score[0]) == pytest.approx(math.log(literal), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("switch", "factor"),
    [
        ("use_adapter_eval", 20 / 9),
        ("use_cost", 27 * 2**22 / 4e9),
        ("use_visits", 5 * 0.5 ** (30 / 60)),
        ("use_recency", 1 - 1 / (1 + math.exp(-30 / 60))),
    ],
)
def test_each_ablation_removes_exactly_its_factor(switch: str, factor: float) -> None:
    tree, adapter, _ = one_adapter_one_block()
    tree.log_visits[adapter] = math.log(5)
    node = np.array([adapter])
    whole = CostModel(tau_s=60.0)
    without = replace(whole, **{switch: False})
    removed = whole.score(tree, node, context(30.0)) - without.score(tree, node, context(30.0))
    assert np.exp(removed) == pytest.approx([factor])


def test_only_eq4_makes_scores_depend_on_the_number_of_adapters() -> None:
    assert CostModel().depends_on_adapter_count
    assert not CostModel(use_adapter_eval=False).depends_on_adapter_count


@pytest.mark.parametrize("tau_s", [0.0, -1.0, math.nan])
def test_a_time_scale_that_is_not_positive_is_refused(tau_s: float) -> None:
    with pytest.raises(LibraError, match="tau_s"):
        CostModel(tau_s=tau_s)


# ---- visits --------------------------------------------------------------------------------------------------------


def test_visits_halve_every_half_life_and_each_match_adds_one() -> None:
    tree, _, block = one_adapter_one_block()
    node = np.array([block])
    # One visit when generated; after one half-life 0.5; a match makes it 1.5; after another half-life 0.75.
    assert np.exp(tree.log_visits_at(node, 60.0)) == pytest.approx([0.5])
    tree.touch(node, 60.0, visits=1)
    assert np.exp(tree.log_visits_at(node, 60.0)) == pytest.approx([1.5])
    assert np.exp(tree.log_visits_at(node, 120.0)) == pytest.approx([0.75])
    # A use that is no visit moves the last use and leaves the count's decay as it was.
    tree.touch(node, 120.0, visits=0)
    assert tree.last_use[block] == 120.0
    assert np.exp(tree.log_visits_at(node, 180.0)) == pytest.approx([0.375])


def test_an_adapter_nobody_asked_for_ranks_below_any_that_was_visited() -> None:
    tree = DependencyTree(HALF_LIFE_S)
    unused, used = (tree.add_adapter(AdapterSpec(name, 8), 4, 4, 1 << 20) for name in ("unused", "used"))
    tree.touch(np.array([used]), 0.0, visits=1)
    scores = CostModel().score(tree, np.array([unused, used]), context(600.0))
    assert scores[0] < scores[1]
