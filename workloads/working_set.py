"""The working set: what a cache must hold to keep every live session and every adapter (design, section 12)."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from libra.request import Request, Segment
from libra.spec import DEFAULT_BLOCK_TOKENS, GIB, AdapterSpec, ModelSpec
from workloads.garbage import collection_paused
from workloads.service import ServiceTime
from workloads.trace import Trace


@dataclass(frozen=True)
class WorkingSet:
    """Mean over time of the KV of live sessions, plus all adapters, in blocks of ``block_bytes``."""

    kv_blocks: int
    adapter_blocks: int
    block_bytes: int

    @property
    def blocks(self) -> int:
        return self.kv_blocks + self.adapter_blocks

    @property
    def num_bytes(self) -> int:
        return self.blocks * self.block_bytes

    @property
    def gib(self) -> float:
        return self.num_bytes / GIB


def working_set(
    trace: Trace, model: ModelSpec, adapters: Iterable[AdapterSpec], block_tokens: int = DEFAULT_BLOCK_TOKENS
) -> WorkingSet:
    """The working set of ``trace`` on ``model``.

    A session is live from its first arrival in the trace to the assumed end of its last answer, and holds its latest
    prompt and answer. Text that several live sessions of one adapter share counts once. KV is rounded up to whole
    blocks in the total, not per session.
    """
    return WorkingSet(
        kv_blocks=-int(-mean_live_tokens(trace) // block_tokens),
        adapter_blocks=sum(adapter.num_blocks(model, block_tokens) for adapter in adapters),
        block_bytes=model.block_bytes(block_tokens),
    )


@collection_paused()
def mean_live_tokens(trace: Trace, service: ServiceTime | None = None) -> float:
    """Mean over the trace's window of the tokens that live sessions hold; see working_set."""
    end_s = trace.header.duration_s
    spans: dict[Hashable, _Span] = {}
    releases = _release_times(trace.requests, service or ServiceTime(), end_s)
    for request, release_s in zip(trace.requests, releases, strict=True):
        for text, length in _held_texts(request):
            span = spans.get(text)
            if span is None:
                spans[text] = _Span(request.arrival_s, release_s, length)
            else:
                span.extend(request.arrival_s, release_s, length)
    return sum(span.tokens * span.held_s() for span in spans.values()) / end_s


class _Span:
    """How long one text has been held: the union of intervals that come in order of their start."""

    __slots__ = ("_closed_s", "_from_s", "_until_s", "tokens")

    def __init__(self, from_s: float, until_s: float, tokens: int) -> None:
        self._from_s, self._until_s, self._closed_s, self.tokens = from_s, until_s, 0.0, tokens

    def extend(self, from_s: float, until_s: float, tokens: int) -> None:
        self.tokens = max(self.tokens, tokens)
        if from_s > self._until_s:
            self._closed_s += self._until_s - self._from_s
            self._from_s, self._until_s = from_s, until_s
        else:
            self._until_s = max(self._until_s, until_s)

    def held_s(self) -> float:
        return self._closed_s + self._until_s - self._from_s


def _release_times(requests: Sequence[Request], service: ServiceTime, end_s: float) -> list[float]:
    """When each request's context gives way: to the session's next turn, or at the assumed end of its answer."""
    next_turn: dict[str, float] = {}
    releases = []
    for request in reversed(requests):
        release_s = min(request.arrival_s + service.of(request.output_tokens), end_s)
        if request.session is not None:
            release_s = next_turn.get(request.session, release_s)
            next_turn[request.session] = request.arrival_s
        releases.append(release_s)
    releases.reverse()
    return releases


def _held_texts(request: Request) -> list[tuple[Hashable, int]]:
    """(text, tokens) of the context once answered; a text is shared between requests of one adapter by its name."""
    adapter, owner = request.adapter, request.session or request.id
    held: list[tuple[Hashable, int]] = [((adapter, part.id), _end(part)) for part in request.prompt]
    if request.prompt_token_ids is not None:
        held.append(((adapter, owner, "prompt"), len(request.prompt_token_ids)))
    held.append(((adapter, request.output or (owner, "answer")), request.output_tokens))
    return held


def _end(segment: Segment) -> int:
    return segment.start + segment.length
