"""How far the hits of a policy are from those of the system it is modelled on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libra.request import Request

TOLERANCE = 0.01


@dataclass(frozen=True)
class Comparison:
    """One setting of one trace. Hits are prompt tokens found in the cache, by request.

    ``peer_total`` is the peer's own total where it keeps one. ``facts`` are further figures of either side, by name.
    """

    policy: str
    setting: Mapping[str, int]
    requests: Sequence[Request]
    peer_hits: Sequence[int]
    libra_hits: Sequence[int]
    peer_total: float | None
    facts: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.peer_hits) if self.peer_total is None else self.peer_total

    @property
    def difference(self) -> float:
        """libra's total against the peer's, as a share of the peer's."""
        return (sum(self.libra_hits) - self.total) / max(self.total, 1)

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= TOLERANCE

    def summary(self) -> dict[str, Any]:
        """One row: the setting, both totals, how far they are apart, and the facts."""
        differing = sum(ours != theirs for ours, theirs in zip(self.libra_hits, self.peer_hits, strict=True))
        return {
            "policy": self.policy,
            **self.setting,
            "requests": len(self.requests),
            "prompt_tokens": sum(len(request.prompt_token_ids or ()) for request in self.requests),
            "peer_hit_tokens": self.total,
            "libra_hit_tokens": sum(self.libra_hits),
            "difference_percent": 100 * self.difference,
            "requests_that_differ": differing,
            **self.facts,
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each request."""
        for request, theirs, ours in zip(self.requests, self.peer_hits, self.libra_hits, strict=True):
            yield {
                **self.setting,
                "request": request.id,
                "session": request.session,
                "adapter": request.adapter,
                "prompt_tokens": len(request.prompt_token_ids or ()),
                "output_tokens": request.output_tokens,
                "peer_hit_tokens": theirs,
                "libra_hit_tokens": ours,
            }
