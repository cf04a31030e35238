"""Drawing tokens."""

import pytest
import torch

from libra.engine.sequence import SamplingParams
from libra.model.sampler import Sampler, filtered_probabilities

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(1.0), [0.1, 0.4, 0.2, 0.3]),
        (SamplingParams(1.0, top_k=2), [0.0, 4 / 7, 0.0, 3 / 7]),
        (SamplingParams(1.0, top_p=0.6), [0.0, 4 / 7, 0.0, 3 / 7]),
        (SamplingParams(1.0, top_p=0.71), [0.0, 4 / 9, 2 / 9, 3 / 9]),
        (SamplingParams(1.0, top_p=0.01), [0.0, 1.0, 0.0, 0.0]),
        (SamplingParams(0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (SamplingParams(1.0, top_k=3, top_p=0.5), [0.0, 4 / 7, 0.0, 3 / 7]),
    ],
)
def test_probabilities_are_cut_and_sharpened(params: SamplingParams, expected: list[float]) -> None:
    weights = filtered_probabilities(LOGITS, params)
    torch.testing.assert_close(weights / weights.sum(), torch.tensor(expected))


def test_greedy_rows_and_drawn_rows_mix() -> None:
    params = [SamplingParams(), SamplingParams(1.0, top_k=1), SamplingParams(1.0)]
    tokens = Sampler(0).sample(LOGITS.expand(3, -1), params, [5, 5, 5])
    assert tokens[:2] == [1, 1]


def test_draws_follow_the_probabilities() -> None:
    sampler, params = Sampler(3), [SamplingParams(1.0)] * 4000
    tokens = torch.tensor(sampler.sample(LOGITS.expand(4000, -1), params, range(4000)))
    shares = torch.bincount(tokens, minlength=4) / 4000
    torch.testing.assert_close(shares, LOGITS.exp(), atol=0.03, rtol=0.0)


def test_a_seeded_draw_depends_on_seed_and_position_alone() -> None:
    logits = torch.zeros(1, 1000)
    fresh, used = Sampler(0), Sampler(1)
    used.sample(logits, [SamplingParams(1.0)], [0])
    draws = [[s.sample(logits, [SamplingParams(1.0, seed=9)], [p])[0] for p in range(20)] for s in (fresh, used)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 10
