"""Drawing tokens."""

import math

import numpy as np
import pytest
import torch

from libra.engine.sequence import NO_TOKEN, SamplingParams, Sequence
from libra.model.sampler import Sampler, filtered_probabilities
from libra.request import Request

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))


def sequence(params: SamplingParams, num_prompt: int = 5, num_output: int = 0) -> Sequence:
    """A sequence about to draw its next token."""
    wanted = Request(0, 0.0, None, 50, prompt_token_ids=(1,) * num_prompt)
    made = Sequence(wanted, np.zeros(num_prompt + 50, dtype=np.uint32), 4, sampling=params)
    made.append(1, num_output)
    return made


def draw(sampler: Sampler, logits: torch.Tensor, *sequences: Sequence) -> list[int]:
    return [one.token for one in sampler.sample(logits.clone(), sequences)]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(1.0), [0.1, 0.4, 0.2, 0.3]),
        (SamplingParams(1.0, top_k=2), [0.0, 4 / 7, 0.0, 3 / 7]),
        (SamplingParams(1.0, top_p=0.6), [0.0, 4 / 7, 0.0, 3 / 7]),
        (SamplingParams(1.0, top_p=0.71), [0.0, 4 / 9, 2 / 9, 3 / 9]),
        (SamplingParams(1.0, top_p=0.01), [0.0, 1.0, 0.0, 0.0]),
        (SamplingParams(1.0, top_p=1e-300), [0.0, 1.0, 0.0, 0.0]),
        (SamplingParams(0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (SamplingParams(1.0, top_k=3, top_p=0.5), [0.0, 4 / 7, 0.0, 3 / 7]),
    ],
)
def test_probabilities_are_cut_and_sharpened(params: SamplingParams, expected: list[float]) -> None:
    weights = filtered_probabilities(LOGITS, params)
    torch.testing.assert_close(weights / weights.sum(), torch.tensor(expected))


def test_greedy_rows_and_drawn_rows_mix() -> None:
    params = [SamplingParams(), SamplingParams(1.0, top_k=1), SamplingParams(1.0)]
    tokens = draw(Sampler(0), LOGITS.expand(3, -1), *map(sequence, params))
    assert tokens[:2] == [1, 1]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_row_that_is_not_finite_has_no_token_and_leaves_the_others_theirs(broken: float) -> None:
    logits = torch.stack([LOGITS, LOGITS, LOGITS])
    logits[1:, 2] = broken
    params = [SamplingParams(1.0, top_k=1), SamplingParams(), SamplingParams(1.0, logprobs=1)]
    assert draw(Sampler(0), logits, *map(sequence, params)) == [1, NO_TOKEN, NO_TOKEN]


def test_draws_follow_the_probabilities() -> None:
    tokens = torch.tensor(draw(Sampler(3), LOGITS.expand(4000, -1), *[sequence(SamplingParams(1.0))] * 4000))
    shares = torch.bincount(tokens, minlength=4) / 4000
    torch.testing.assert_close(shares, LOGITS.exp(), atol=0.03, rtol=0.0)


def test_a_seeded_draw_depends_on_seed_and_position_alone() -> None:
    logits = torch.zeros(1, 1000)
    fresh, used = Sampler(0), Sampler(1)
    draw(used, logits, sequence(SamplingParams(1.0)))
    seeded = [sequence(SamplingParams(1.0, seed=9), num_output=position) for position in range(20)]
    draws = [[draw(sampler, logits, one)[0] for one in seeded] for sampler in (fresh, used)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 10


def test_stop_tokens_are_not_drawn_before_the_least_length() -> None:
    params = SamplingParams(stop_token_ids=frozenset({1, 3}), min_tokens=2)
    rows = [sequence(params, num_output=count) for count in range(4)]
    assert draw(Sampler(0), LOGITS.expand(4, -1), *rows) == [2, 2, 1, 1]
    warm = [sequence(SamplingParams(1.0, stop_token_ids=frozenset({1, 3}), min_tokens=1))] * 200
    assert set(draw(Sampler(0), LOGITS.expand(200, -1), *warm)) == {0, 2}


def test_logprobs_are_those_of_the_model_whatever_is_cut_or_forbidden() -> None:
    forbidding = SamplingParams(0.3, top_k=1, stop_token_ids=frozenset({1}), min_tokens=1, logprobs=2)
    asked, silent, bare = Sampler(0).sample(
        LOGITS.expand(3, -1).clone(),
        [sequence(forbidding), sequence(SamplingParams()), sequence(SamplingParams(logprobs=0))],
    )
    assert (asked.token, silent.token, bare.token) == (3, 1, 1)
    assert silent.logprobs is None
    assert asked.logprobs is not None
    assert bare.logprobs is not None
    assert asked.logprobs.chosen == pytest.approx(math.log(0.3))
    assert [token for token, _ in asked.logprobs.top] == [1, 3]
    assert [value for _, value in asked.logprobs.top] == pytest.approx([math.log(0.4), math.log(0.3)])
    assert bare.logprobs.top == []
