"""Greedy answers computed once, one at a time, against which every later one is held."""

import json
import random
from dataclasses import dataclass

from bench.soak.api import Api
from libra.errors import LibraError

PROMPT_TOKENS = (20, 90)
# A step's matrix products are rounded as its batch is shaped, so logits this close may change places for no fault of
# the cache. An answer is known up to the first such choice.
MIN_MARGIN = 1e-4
MIN_TOKENS = 8
_TRIES = 10


@dataclass(frozen=True)
class Expected:
    """What ``model`` answers to ``prompt``."""

    model: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]

    def part(self, start: int, length: int) -> tuple[list[int], list[int]]:
        """A prompt that holds the first ``start`` tokens of the answer, and the ``length`` tokens that must follow."""
        return [*self.prompt, *self.tokens[:start]], list(self.tokens[start : start + length])


async def compute_expected(
    api: Api, model: str, count: int, num_tokens: int, vocab_size: int, rng: random.Random
) -> list[Expected]:
    """``count`` answers of one model, of up to ``num_tokens``. Raises LibraError when the server gives none."""
    found: list[Expected] = []
    for _ in range(_TRIES * count):
        prompt = [rng.randrange(1, vocab_size) for _ in range(rng.randint(*PROMPT_TOKENS))]
        answered = await api.complete(model=model, prompt=prompt, max_tokens=num_tokens, logprobs=2)
        if answered.status != 200 or answered.tokens is None:
            raise LibraError(f"{model}: no answer before the soak has begun: {answered.status} {answered.body[:200]}")
        clear = num_clear(json.loads(answered.body)["choices"][0]["logprobs"]["top_logprobs"])
        if clear >= min(MIN_TOKENS, num_tokens):
            found.append(Expected(model, tuple(prompt), tuple(answered.tokens[:clear])))
        if len(found) == count:
            return found
    raise LibraError(f"{model}: only {len(found)} of {count} answers begin without a close choice; use another model")


def num_clear(top_logprobs: list[dict[str, float]]) -> int:
    """How many tokens come before the first whose best two candidates are close, or cannot be told apart by text."""
    for place, top in enumerate(top_logprobs):
        values = sorted(top.values(), reverse=True)
        if len(values) < 2 or values[0] - values[1] < MIN_MARGIN:
            return place
    return len(top_logprobs)
