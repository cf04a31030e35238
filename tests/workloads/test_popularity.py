"""Popularity: shares against the weights they are named after, worked from the formula; and balanced ranks."""

from collections import Counter

import numpy as np
import pytest

from libra.errors import LibraError
from workloads.adapters import adapter_names, assign_ranks, complete_ranks, parse_ranks
from workloads.popularity import parse_popularity

DRAWS = 200_000


def shares(spec: str, num_adapters: int) -> np.ndarray:
    drawn = parse_popularity(spec).assign(np.random.default_rng(0), DRAWS, num_adapters)
    return np.bincount(drawn, minlength=num_adapters) / DRAWS


@pytest.mark.parametrize("spec", ["zipf", "zipf:1.0"])
def test_zipf_is_rank_to_the_minus_one(spec: str) -> None:
    # 1, 1/2, 1/3, 1/4 over their sum 25/12.
    assert shares(spec, 4) == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25], abs=0.004)


def test_zipf_exponent_two() -> None:
    # 1, 1/4, 1/9 over their sum 49/36: a geometric "zipf:2" would be 4/7, 2/7, 1/7.
    assert shares("zipf:2", 3) == pytest.approx([36 / 49, 9 / 49, 4 / 49], abs=0.004)


def test_uniform() -> None:
    assert shares("uniform", 5) == pytest.approx([0.2] * 5, abs=0.004)


def test_gaussian_is_narrower_for_a_smaller_std() -> None:
    # exp(-i^2 / 200) for 100 adapters: at i = 10, one standard deviation, the density is e^-0.5 of the peak.
    narrow = shares("gaussian:0.1", 100)
    assert narrow[10] / narrow[0] == pytest.approx(np.exp(-0.5), rel=0.05)
    assert narrow[:20].sum() > shares("gaussian:0.3", 100)[:20].sum() > 0.2


def test_distinct_and_identical() -> None:
    rng = np.random.default_rng(0)
    assert parse_popularity("distinct").assign(rng, 5, 3).tolist() == [0, 1, 2, 0, 1]
    assert parse_popularity("identical").assign(rng, 3, 3).tolist() == [0, 0, 0]


def test_names_sort_as_text() -> None:
    for count in (1, 20, 100, 101, 2000):
        assert list(adapter_names(count)) == sorted(adapter_names(count))
    assert adapter_names(2) == ("lora-00", "lora-01")
    with pytest.raises(LibraError, match="--num-loras is 0"):
        adapter_names(0)


def test_ranks_are_balanced_seeded_and_not_in_order_of_popularity() -> None:
    names = adapter_names(51)
    ranks = assign_ranks(names, (16, 32, 64), seed=1)
    assert list(ranks) == list(names)
    assert set(Counter(ranks.values()).values()) == {17}
    assert ranks == assign_ranks(names, (16, 32, 64), seed=1)
    assert ranks != assign_ranks(names, (16, 32, 64), seed=2)
    assert list(ranks.values())[:6] != [16, 32, 64, 16, 32, 64]


def test_ranks_of_the_header_are_kept() -> None:
    assert complete_ranks({"a": 8, "b": None}, (64,), 0) == {"a": 8, "b": 64}


@pytest.mark.parametrize("text", ["", "32;64", "32,x"])
def test_bad_rank_lists(text: str) -> None:
    with pytest.raises(LibraError, match="--ranks is"):
        parse_ranks(text)


@pytest.mark.parametrize("ranks", [(), (0,), (32, -1)])
def test_ranks_out_of_range(ranks: tuple[int, ...]) -> None:
    with pytest.raises(LibraError, match="--ranks is"):
        assign_ranks(["a"], ranks, 0)
