"""One request of a workload: who asks, when, with which adapter, and for which tokens."""

from dataclasses import dataclass
from typing import NamedTuple


class Segment(NamedTuple):
    """``length`` tokens of the text named ``id`` from position ``start``; see libra.tokens for what they are."""

    id: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a trace records it.

    The prompt is either a tuple of segments or explicit token ids. ``output_tokens`` is exact: the engine decodes that
    many tokens. ``output`` names the segment that stands for the recorded answer in later turns, and
    ``output_token_ids`` gives it explicitly; with neither, the engine keeps what it samples.

    ``adapter`` None is the plain base model. Times are seconds from the start of the trace.

    A request that names others in ``after`` arrives ``delay_s`` after the last of them has finished, and ``arrival_s``
    is only the earliest this can be. ``task`` names the piece of work a user waits for that this request is part of.
    KV is shared only among requests of one ``cache_salt``, so that nobody else can tell from timing what it covers.
    """

    id: int
    arrival_s: float
    adapter: str | None
    output_tokens: int
    prompt: tuple[Segment, ...] = ()
    prompt_token_ids: tuple[int, ...] | None = None
    output: str | None = None
    output_token_ids: tuple[int, ...] | None = None
    session: str | None = None
    task: str | None = None
    after: tuple[int, ...] = ()
    delay_s: float = 0.0
    cache_salt: str | None = None

    @property
    def num_prompt_tokens(self) -> int:
        if self.prompt_token_ids is not None:
            return len(self.prompt_token_ids)
        return sum(segment.length for segment in self.prompt)
