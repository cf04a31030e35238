"""Requests of sources that record lengths and no content: every prompt is a text of its own and shares no prefix."""

from libra.request import Request, Segment
from workloads.arrivals import FloatArray


def unhashed_request(
    identifier: int, arrival_s: float, prompt_tokens: int, output_tokens: int, session: str | None = None
) -> Request:
    """A request without an adapter whose prompt and answer no other request has."""
    return Request(
        id=identifier,
        arrival_s=arrival_s,
        adapter=None,
        output_tokens=output_tokens,
        prompt=(Segment(f"r{identifier}.p", 0, prompt_tokens),),
        output=f"r{identifier}.o",
        session=session,
    )


def observed_seconds(arrival_s: FloatArray) -> float:
    """The window of a recording whose end is not recorded: one mean gap past the last arrival, to the microsecond."""
    last_s = float(arrival_s.max(initial=0.0))
    return round(last_s + max(last_s / max(len(arrival_s), 1), 1e-3), 6)
