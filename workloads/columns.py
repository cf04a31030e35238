"""A trace as numpy columns, which is how its figures are computed: a million requests cost seconds, not minutes."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from libra.request import Request
from libra.spec import DEFAULT_BLOCK_TOKENS
from workloads.arrivals import FloatArray, IntArray
from workloads.garbage import collection_paused
from workloads.service import ServiceTime

AnyIntArray = npt.NDArray[np.integer[Any]]
T = TypeVar("T", bound=Hashable)
Piece = tuple[Hashable, int, int]
PART = 1 << 14  # requests whose pieces are taken as Python objects at a time


@dataclass(frozen=True)
class TraceColumns:
    """One entry per request, by arrival; adapters and sessions are numbered by first appearance, and
    ``adapter_ids[n]`` is adapter n.

    Answers are assumed to begin at ``first_token_s`` and to end at ``end_s``, see ServiceTime; a request that waits for
    others arrives when they end. ``first`` has one entry more than there are
    requests: the pieces of request r are ``first[r] : first[r + 1]``. A piece is a run of tokens of the prompt or, at
    the end, of the answer: the ``piece_tokens`` first tokens of the text numbered ``piece_text``. Pieces of one text
    are equal as far as both go.
    """

    arrival_s: FloatArray
    first_token_s: FloatArray
    end_s: FloatArray
    adapter_ids: tuple[str | None, ...]
    adapter: IntArray
    session: IntArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    first: IntArray
    piece_text: npt.NDArray[np.int32]
    piece_tokens: IntArray

    @property
    def num_requests(self) -> int:
        return len(self.arrival_s)


@collection_paused()
def trace_columns(
    requests: Sequence[Request], block_tokens: int = DEFAULT_BLOCK_TOKENS, service: ServiceTime | None = None
) -> TraceColumns:
    """The columns of ``requests``; explicit token ids are cut into pieces of ``block_tokens``."""
    service = service or ServiceTime()
    requests, arrival_s = _by_assumed_arrival(requests, service)
    numbers: defaultdict[Hashable, int] = defaultdict(count().__next__)
    parts = [
        _piece_columns(requests[start : start + PART], block_tokens, numbers) for start in range(0, len(requests), PART)
    ]
    num_pieces, piece_text, piece_tokens = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    first = np.cumsum(np.concatenate([[0], num_pieces]))
    output_tokens = np.array([request.output_tokens for request in requests])
    adapters, adapter = _numbered((request.adapter for request in requests), len(requests))
    sessions = (request.id if request.session is None else request.session for request in requests)
    return TraceColumns(
        arrival_s=arrival_s,
        first_token_s=arrival_s + service.first_token_s,
        end_s=arrival_s + service.first_token_s + service.per_token_s * output_tokens,
        adapter_ids=tuple(adapters),
        adapter=adapter,
        session=_numbered(sessions, len(requests))[1],
        prompt_tokens=np.add.reduceat(piece_tokens, first[:-1]) - output_tokens,
        output_tokens=output_tokens,
        first=first,
        piece_text=piece_text,
        piece_tokens=piece_tokens,
    )


def pair_keys(left: IntArray, right: AnyIntArray) -> IntArray:
    """A key for every distinct pair. Both are 0 or more, and the product of their maxima stays below 2^63."""
    keys: IntArray = left * (right.max(initial=0) + 1) + right
    return keys


def grouped(keys: IntArray) -> tuple[IntArray, IntArray]:
    """What sorts the keys, keeping the order of equals, and in that order the number of each key, from 0 on."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return order, np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))


def pairs(left: IntArray, right: IntArray) -> IntArray:
    """A number for every distinct pair, counting from 0; see pair_keys."""
    order, ordered = grouped(pair_keys(left, right))
    numbers = np.empty_like(ordered)
    numbers[order] = ordered
    return numbers


def _by_assumed_arrival(requests: Sequence[Request], service: ServiceTime) -> tuple[Sequence[Request], FloatArray]:
    if not any(request.after for request in requests):
        return requests, np.array([request.arrival_s for request in requests])
    ends: dict[int, float] = {}
    arrivals: list[float] = []
    for request in requests:
        waited = max((ends[earlier] + request.delay_s for earlier in request.after), default=0.0)
        arrivals.append(max(request.arrival_s, waited))
        ends[request.id] = arrivals[-1] + service.of(request.output_tokens)
    order = np.argsort(arrivals, kind="stable")
    return [requests[place] for place in order], np.array(arrivals)[order]


def _numbered(values: Iterable[T], length: int) -> tuple[list[T], IntArray]:
    """The distinct values by first appearance, and the number of each of the ``length`` values."""
    numbers: defaultdict[T, int] = defaultdict(count().__next__)
    codes = np.fromiter(map(numbers.__getitem__, values), np.int64, length)
    return list(numbers), codes


def _piece_columns(
    requests: Sequence[Request], block_tokens: int, numbers: defaultdict[Hashable, int]
) -> tuple[IntArray, npt.NDArray[np.int32], IntArray]:
    """How many pieces each request has, and the text and tokens of every piece. ``numbers`` says how texts are numbered
    and takes up new ones."""
    pieces = [_pieces(request, block_tokens) for request in requests]
    num_pieces = np.array([len(own) for own in pieces])
    kinds, kind = _distinct(pieces, int(num_pieces.sum()))
    # A text is named by where it begins; most begin at 0.
    texts = (numbers[(name, start) if start else name] for name, start, _ in kinds)
    text = np.fromiter(texts, np.int32, len(kinds))
    return num_pieces, text[kind], np.array([length for _, _, length in kinds])[kind]


def _distinct(pieces: Sequence[Sequence[Piece]], length: int) -> tuple[list[Piece], IntArray]:
    """The pieces without repeated objects, and which of them each of the ``length`` pieces is.

    Turns share the objects of their history, and comparing addresses is several times as fast as hashing texts. Equal
    pieces may still be there more than once.
    """
    objects = np.fromiter(chain.from_iterable(pieces), object, length)
    addresses = np.fromiter(map(id, objects), np.int64, length)
    _, place, number = np.unique(addresses, return_index=True, return_inverse=True)
    return objects[place].tolist(), number


def _pieces(request: Request, block_tokens: int) -> tuple[Piece, ...]:
    """(name, start, length) of every piece. An answer without a name is a text of its own."""
    if request.prompt_token_ids is None:
        answer = (request.output or (request.id,), 0, request.output_tokens)
        return (*request.prompt, answer)
    if request.output_token_ids is not None:
        return tuple(_blocks((*request.prompt_token_ids, *request.output_token_ids), block_tokens))
    answer = (request.output or (request.id,), 0, request.output_tokens)
    return (*_blocks(request.prompt_token_ids, block_tokens), answer)


def _blocks(tokens: tuple[int, ...], block_tokens: int) -> Iterator[Piece]:
    """Explicit tokens block by block: a block is a text named by what it says."""
    data = np.array(tokens, dtype=np.uint32).tobytes()
    width = block_tokens * np.uint32().itemsize
    for start in range(0, len(data), width):
        block = data[start : start + width]
        yield block, 0, len(block) // np.uint32().itemsize
