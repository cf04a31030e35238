"""What the event loop and the engine's process say to each other, and how it goes through a pair of sockets.

event loop  --- Submit, End, Call ----------------------------------------->  engine, before its next step
event loop  <-- Ready or Refused, then news of a step, Reply, Snapshot, Died --  engine, after the step
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from libra.engine.record import RequestRecord
from libra.engine.sequence import SamplingParams, TokenLogprobs
from libra.request import Request
from libra.server.snapshot import Snapshot

_LENGTH = struct.Struct("!Q")


class Submit(NamedTuple):
    request: Request
    sampling: SamplingParams


class End(NamedTuple):
    """Ends a request before the next step; ``as_finished``: its answer is whole as it is."""

    request_id: int
    as_finished: bool


class Call(NamedTuple):
    """Asks for ``action(parts, *arguments)`` between two steps. Only functions that can be imported travel."""

    number: int
    action: Callable[..., object]
    arguments: tuple[Any, ...]


class News(NamedTuple):
    """What a step made of one request: tokens, or its end. ``record`` comes with the last news, and once only.

    ``stopped``: the last token is a stop token. ``fault``: why the answer is not whole, where it is not.
    """

    request_id: int
    tokens: list[int]
    logprobs: list[TokenLogprobs]
    record: RequestRecord | None = None
    stopped: bool = False
    fault: str | None = None


class Reply(NamedTuple):
    """What the call of this number returned or raised."""

    number: int
    result: object
    error: Exception | None


class Refused(NamedTuple):
    """Why there will be no engine."""

    reason: str


class Died(NamedTuple):
    """Why there is no engine any more."""

    reason: str


@dataclass(frozen=True)
class Ready:
    """An engine that can be used. ``started_s``: its clock's zero on ``time.perf_counter``, which all processes of a
    machine share. ``longest_contexts``: by adapter, None the base model, the most tokens a request can have."""

    started_s: float
    device: str
    longest_contexts: Mapping[str | None, int]
    snapshot: Snapshot


Command = Submit | End | Call
Report = Ready | Refused | list[News] | Reply | Snapshot | Died


def frame(message: Command | Report) -> bytes:
    """A message as bytes that say their own length."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Gives the messages back, from bytes cut anywhere. Both ends are this server's own: it unpickles what it gets."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes."""
        self._held += data
        messages, start = [], 0
        while len(self._held) >= (head := start + _LENGTH.size):
            (length,) = _LENGTH.unpack_from(self._held, start)
            if len(self._held) < head + length:
                break
            messages.append(pickle.loads(self._held[head : head + length]))
            start = head + length
        del self._held[:start]
        return messages
