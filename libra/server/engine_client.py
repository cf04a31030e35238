"""The event loop's side of the engine: what it asks of the engine's process, and who hears of what comes back."""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar, cast

from libra.engine.sequence import SamplingParams
from libra.errors import LibraError
from libra.model.adapter import AdapterSource
from libra.request import Request
from libra.server.engine_actions import add_adapter, remove_adapter
from libra.server.messages import Call, Died, End, Frames, News, Ready, Refused, Reply, Report, Submit, frame
from libra.server.snapshot import Snapshot

T = TypeVar("T")

NUM_SNAPSHOTS = 600
_GONE = "the engine's process has ended"


async def connect(connection: socket.socket) -> "EngineClient":
    """The engine at the other end, once it can be used. Raises LibraError when there will be none."""
    _, client = await asyncio.get_running_loop().create_unix_connection(EngineClient, sock=connection)
    await client.ready
    return client


class EngineStopped(Exception):
    """The engine has ended and answers no more."""


@dataclass(slots=True, eq=False)
class Stream:
    """A request that the engine works on; ``listener`` hears of everything that comes of it."""

    request: Request
    sampling: SamplingParams
    listener: Callable[["Stream", News], None]


class EngineClient(asyncio.Protocol):
    """One end of a pair of sockets; an EngineLoop has the other.

    ``streams`` are the open ones by request id, ``snapshots`` the engine's latest, oldest first. When the engine ends,
    ``failure`` says why, and every open stream and call ends with it. ``ready``: the engine can be used.
    """

    def __init__(self) -> None:
        self.device = ""
        self.snapshots: deque[Snapshot] = deque(maxlen=NUM_SNAPSHOTS)
        self.streams: dict[int, Stream] = {}
        self.failure: str | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._frames = Frames()
        self._started_s = 0.0
        self._longest_contexts: dict[str | None, int] = {}
        self._numbers = count()
        self._calls: dict[int, asyncio.Future[Any]] = {}

    def now_s(self) -> float:
        """The engine's clock."""
        return time.perf_counter() - self._started_s

    def longest_context(self, adapter: str | None) -> int:
        """The most tokens, answer included, that a request could have alone in the cache."""
        return self._longest_contexts[adapter]

    def submit(self, stream: Stream) -> None:
        """Queues a request with the engine. Raises EngineStopped."""
        self._check_alive()
        self.streams[stream.request.id] = stream
        self._send(Submit(stream.request, stream.sampling))

    def abort(self, stream: Stream) -> None:
        """Ends a stream before the next step; its last news says so. No effect on one that has ended."""
        self._send(End(stream.request.id, as_finished=False))

    def finish(self, stream: Stream) -> None:
        """The same for an answer that is whole as it is."""
        self._send(End(stream.request.id, as_finished=True))

    async def call(self, action: Callable[..., T], *arguments: Any) -> T:
        """Has ``action(parts, *arguments)``, see engine_actions, run between two steps and returns, or raises, what it
        does. Raises EngineStopped."""
        self._check_alive()
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self._send(Call(number, action, arguments))
        try:
            return cast(T, await future)
        finally:
            del self._calls[number]

    async def add_adapter(self, source: AdapterSource) -> None:
        """Raises LibraError when its name is taken or the cache can never hold it."""
        self._longest_contexts[source.spec.adapter_id] = await self.call(add_adapter, source)

    async def remove_adapter(self, name: str) -> bool:
        """Whether the adapter has been removed; False while something uses it."""
        is_removed = await self.call(remove_adapter, name)
        if is_removed:
            del self._longest_contexts[name]
        return is_removed

    def close(self) -> None:
        """Ends the engine after the step under way; open streams are not told."""
        if self._transport is not None:
            self._transport.close()

    # ---- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for report in self._frames.feed(data):
            self._take(report)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._bury(_GONE)

    # ---- what comes ------------------------------------------------------------------------------------------------

    def _take(self, report: Report) -> None:
        match report:
            case list():
                for news in report:
                    self._deliver(news)
            case Snapshot():
                self.snapshots.append(report)
            case Reply(number, result, error):
                _settle(self._calls.get(number), result, error)
            case Ready():
                self._started_s, self.device = report.started_s, report.device
                self._longest_contexts = dict(report.longest_contexts)
                self.snapshots.append(report.snapshot)
                _settle(self.ready, None, None)
            case Refused(reason):
                _settle(self.ready, None, LibraError(reason))
            case Died(reason):
                self._bury(reason)

    def _deliver(self, news: News) -> None:
        stream = self.streams[news.request_id]
        if news.record is not None:
            del self.streams[news.request_id]
        stream.listener(stream, news)

    def _bury(self, failure: str) -> None:
        """Tells everybody that nothing more will come. The first reason counts."""
        if self.failure is not None:
            return
        self.failure = failure
        _settle(self.ready, None, LibraError(f"{failure}; its log says why"))
        for stream in list(self.streams.values()):
            stream.listener(stream, News(stream.request.id, [], [], fault=failure))
        self.streams.clear()
        for future in self._calls.values():
            _settle(future, None, EngineStopped(failure))

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise EngineStopped(self.failure)

    def _send(self, command: Submit | End | Call) -> None:
        if self._transport is not None:
            self._transport.write(frame(command))


def _settle(future: "asyncio.Future[Any] | None", result: object, error: Exception | None) -> None:
    """Ends a future that somebody may have given up."""
    if future is None or future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
