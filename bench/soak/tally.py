"""What a soak counts, and what it holds against the server."""

from collections import Counter
from collections.abc import Sequence

MAX_NOTED = 50


class Tally:
    """``counts`` by what happened; ``breaches`` says what must not have, the first of them in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.num_breaches = 0
        self.breaches: list[str] = []

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def breach(self, kind: str, detail: str) -> None:
        self.counts[kind] += 1
        self.num_breaches += 1
        if len(self.breaches) < MAX_NOTED:
            self.breaches.append(f"{kind}: {detail}")

    @property
    def num_done(self) -> int:
        return self.counts.total()


def difference(expected: Sequence[int], got: Sequence[int]) -> str | None:
    """How two token sequences differ, None when they do not."""
    if list(expected) == list(got):
        return None
    if len(expected) != len(got):
        return f"{len(got)} tokens for {len(expected)}"
    place = next(place for place, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b)
    return f"token {place} of {len(expected)} is {got[place]}, not {expected[place]}"
