"""Request streams for engine tests: sessions over shared openings, so that everything the cache does happens."""

import numpy as np

from libra.request import Request, Segment


def session_load(
    num_requests: int,
    adapters: list[str | None],
    seed: int = 0,
    mean_gap_s: float = 0.05,
    turn_tokens: int = 12,
    max_turns: int = 4,
    max_output: int = 12,
) -> list[Request]:
    """Multi-turn sessions, each with one adapter and one of two openings; sorted by arrival.

    Popularity falls as 1 / rank over ``adapters``. Every turn's prompt holds the whole session so far, recorded
    answers included.
    """
    generator = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, len(adapters) + 1)
    requests: list[Request] = []
    now_s, session = 0.0, 0
    while len(requests) < num_requests:
        adapter = adapters[int(generator.choice(len(adapters), p=weights / weights.sum()))]
        history = (Segment(f"opening {int(generator.integers(2))}", 0, 10),)
        turn_s = now_s
        for turn in range(int(generator.integers(1, max_turns + 1))):
            prompt = (*history, Segment(f"user {session}.{turn}", 0, int(generator.integers(1, turn_tokens + 1))))
            length = int(generator.integers(1, max_output + 1))
            answer = f"answer {session}.{turn}"
            requests.append(Request(0, turn_s, adapter, length, prompt, output=answer, session=f"s{session}"))
            history = (*prompt, Segment(answer, 0, length))
            turn_s += float(generator.exponential(10 * mean_gap_s)) + length * 0.02
        now_s += float(generator.exponential(mean_gap_s))
        session += 1
    requests.sort(key=lambda wanted: wanted.arrival_s)
    return [
        Request(n, r.arrival_s, r.adapter, r.output_tokens, r.prompt, output=r.output, session=r.session)
        for n, r in enumerate(requests[:num_requests])
    ]
