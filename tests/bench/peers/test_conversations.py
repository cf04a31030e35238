"""The trace that peers and policies are compared on."""

from dataclasses import replace

import pytest

from bench.peers.conversations import Conversations
from libra.errors import LibraError

SHAPE = Conversations(
    num_requests=200,
    num_adapters=5,
    num_open=4,
    turns=5.0,
    zipf=1.0,
    system_tokens=32,
    turn_tokens=40.0,
    output_tokens=30.0,
    max_context=500,
)


def test_requests_come_one_at_a_time_and_fit() -> None:
    requests = SHAPE.requests()
    assert [request.id for request in requests] == list(range(200))
    assert [request.after for request in requests[1:]] == [(number,) for number in range(199)]
    assert max(request.num_prompt_tokens + request.output_tokens for request in requests) <= SHAPE.max_context
    assert len({request.adapter for request in requests}) == SHAPE.num_adapters
    assert requests == SHAPE.requests()
    assert requests != replace(SHAPE, seed=1).requests()


def test_a_turn_holds_the_turns_and_answers_before_it() -> None:
    history: dict[str | None, tuple[object, ...]] = {}
    for request in SHAPE.requests():
        before = history.get(request.session, request.prompt[:1])
        assert request.prompt[:-1] == before
        history[request.session] = (*request.prompt, (request.output, 0, request.output_tokens))
    assert any(len(prompt) > 5 for prompt in history.values())


def test_a_first_turn_that_cannot_fit_is_refused() -> None:
    with pytest.raises(LibraError, match="max_context 100 does not hold a first turn of 102 tokens"):
        replace(SHAPE, max_context=100)
