"""A multi-turn trace to be served one request at a time, so that only the cache's rules decide what is hit."""

from dataclasses import dataclass

import numpy as np

from libra.errors import LibraError
from libra.request import Request, Segment


@dataclass(frozen=True)
class Conversations:
    """Conversations over several adapters, ``num_open`` of them at a time, their turns interleaved at random.

    Each begins with its adapter's system prompt of ``system_tokens``. Turns and answers have exponential lengths with
    the given means, at least one token. A conversation ends after ``turns`` on average, and before prompt and answer
    exceed ``max_context``; then another adapter, by Zipf's law with exponent ``zipf``, gets a new one. Raises
    LibraError when the means leave no room for a first turn.
    """

    num_requests: int
    num_adapters: int
    num_open: int
    turns: float
    zipf: float
    system_tokens: int
    turn_tokens: float
    output_tokens: float
    max_context: int
    seed: int = 0

    def __post_init__(self) -> None:
        first = self.system_tokens + self.turn_tokens + self.output_tokens
        if first > self.max_context:
            raise LibraError(f"max_context {self.max_context} does not hold a first turn of {first:g} tokens; raise it")

    def requests(self) -> list[Request]:
        """The requests in the order to serve them in: each arrives a second after the one before has finished."""
        rng = np.random.default_rng(self.seed)
        popularity = np.arange(1, self.num_adapters + 1) ** -self.zipf
        popularity /= popularity.sum()
        talks: list[_Talk] = []
        requests: list[Request] = []
        num_talks = 0
        while len(requests) < self.num_requests:
            if len(talks) < self.num_open:
                adapter = f"lora-{rng.choice(self.num_adapters, p=popularity):02d}"
                talks.append(_Talk(f"s{num_talks}", adapter, (Segment(f"{adapter}.sys", 0, self.system_tokens),)))
                num_talks += 1
            slot = int(rng.integers(len(talks)))
            said, answered = (1 + int(rng.exponential(mean)) for mean in (self.turn_tokens, self.output_tokens))
            request = talks[slot].next_request(len(requests), said, answered)
            if request.num_prompt_tokens + request.output_tokens > self.max_context:
                talks.pop(slot)
                continue
            talks[slot] = talks[slot].after(request)
            requests.append(request)
            if rng.random() < 1 / self.turns:
                talks.pop(slot)
        return requests


@dataclass(frozen=True)
class _Talk:
    """A conversation so far."""

    name: str
    adapter: str
    history: tuple[Segment, ...]
    num_turns: int = 0

    def next_request(self, request_id: int, said: int, answered: int) -> Request:
        return Request(
            id=request_id,
            arrival_s=0.0,
            adapter=self.adapter,
            output_tokens=answered,
            prompt=(*self.history, Segment(f"{self.name}.t{self.num_turns}", 0, said)),
            output=f"{self.name}.o{self.num_turns}",
            session=self.name,
            after=(request_id - 1,) if request_id else (),
            delay_s=1.0 if request_id else 0.0,
        )

    def after(self, request: Request) -> "_Talk":
        assert request.output is not None
        history = (*request.prompt, Segment(request.output, 0, request.output_tokens))
        return _Talk(self.name, self.adapter, history, self.num_turns + 1)
