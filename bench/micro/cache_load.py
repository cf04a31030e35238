"""A multi-turn load for the cache alone: many adapters, growing prompts, sessions interleaved."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from libra.request import Request, Segment


@dataclass(frozen=True)
class CacheLoad:
    """Sessions of Zipf-popular adapters. With the defaults the mean prompt has about 1,340 tokens."""

    num_requests: int = 4000
    num_adapters: int = 50
    open_sessions: int = 100
    system_tokens: int = 256
    question_tokens: int = 148
    answer_tokens: int = 180
    max_turns: int = 10
    seed: int = 0

    @property
    def adapters(self) -> list[str]:
        return [f"a{number:02d}" for number in range(self.num_adapters)]

    def requests(self) -> Iterator[Request]:
        """The next turn of one of the open sessions, at five requests a second."""
        generator = np.random.default_rng(self.seed)
        popularity = 1.0 / np.arange(1, self.num_adapters + 1)
        popularity /= popularity.sum()
        sessions: list[tuple[str, list[Segment], int]] = []
        for number in range(self.num_requests):
            while len(sessions) < self.open_sessions:
                adapter = self.adapters[int(generator.choice(self.num_adapters, p=popularity))]
                turns = int(generator.integers(1, self.max_turns + 1))
                sessions.append((adapter, [Segment(f"system {adapter}", 0, self.system_tokens)], turns))
            index = int(generator.integers(len(sessions)))
            adapter, history, turns = sessions.pop(index)
            history = [*history, Segment(f"question {number}", 0, self.question_tokens)]
            answer = f"answer {number}"
            yield Request(number, number / 5, adapter, self.answer_tokens, tuple(history), output=answer)
            if turns > 1:
                sessions.append((adapter, [*history, Segment(answer, 0, self.answer_tokens)], turns - 1))
