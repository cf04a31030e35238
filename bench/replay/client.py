"""One request to the server: connect, send, read, with a limit on the time it may take."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from bench.replay.answer import Answer, AnswerReader
from bench.replay.connections import Connections
from bench.replay.departures import Departures
from bench.replay.faults import Fault, FaultKind
from bench.replay.http import Address, Connection

# How many connections are opened at a time: beyond its backlog a server lets them wait for a second.
_AT_A_TIME = 16
_STOPPED = Fault(FaultKind.INTERRUPTED, "the run was stopped")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request under way: on which connection, who reads its answer, and what ends it when that takes too long."""

    connection: Connection
    reader: AnswerReader
    timer: asyncio.TimerHandle


class Client:
    """Sends requests to one endpoint. ``num_reconnects`` counts requests that a connection closed while idle had lost,
    and that went out again at once on a new one: HTTP's own repair, which is reported and not a retry. ``departures``
    leave on time while answers arrive."""

    def __init__(self, address: Address, endpoint: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self.departures = Departures()
        self._connections = Connections(address, self.departures)
        self._timeout_s = timeout_s
        lines = [
            f"POST {address.path}{endpoint} HTTP/1.1",
            f"Host: {address.host_header}",
            "Content-Type: application/json",
            "Accept: text/event-stream",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self._head = "\r\n".join(lines).encode() + b"\r\n"
        self._active: set[Connection] = set()
        self._connecting: set[asyncio.Timeout] = set()
        self._stopped = False
        self.num_reconnects = 0

    async def reach(self, num_connections: int, until_s: float) -> None:
        """Looks the server up and opens connections, at least one, so that the first requests wait for neither; gives
        up at ``until_s`` of ``time.monotonic``. Where it fails, the requests will meet the same and count it."""
        left = iter(range(1, num_connections))

        async def open_some() -> None:
            with suppress(OSError):
                for _ in left:
                    self._connections.release(await self._connections.open())

        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(until_s - time.monotonic()):
                # One before the others: they go where it was let in.
                self._connections.release(await self._connections.open())
                await asyncio.gather(*(open_some() for _ in range(_AT_A_TIME)))

    def begin(self, body: bytes, request_id: str, keep: bool = False) -> Exchange | None:
        """Sends a request at once, where a connection waits for one; what it returns goes to ``post``."""
        connection = self._connections.take_idle()
        if connection is None:
            return None
        return self._send(connection, self._request(body, request_id), AnswerReader(time.monotonic(), keep))

    async def post(self, body: bytes, request_id: str, keep: bool = False, begun: Exchange | None = None) -> Answer:
        """One attempt, ``begun`` or not. A failure of any kind is the answer's ``fault``, never an exception."""
        exchange = begun or self.begin(body, request_id, keep)
        if exchange is None:
            return await self._post_anew(body, request_id, AnswerReader(time.monotonic(), keep))
        connection, answer = exchange.connection, await self._end(exchange)
        if connection.used and not connection.got_bytes and _is_lost(answer):
            self.num_reconnects += 1
            return await self._post_anew(body, request_id, AnswerReader(answer.sent_s, keep))
        self._connections.release(connection)
        return answer

    def stop(self) -> None:
        """Ends every exchange under way; each ``post`` returns what it has, with the fault ``interrupted``. To be
        called from within the event loop."""
        self._stopped = True
        for limit in self._connecting:
            if not limit.expired():
                limit.reschedule(0.0)
        for connection in tuple(self._active):
            connection.abandon(_STOPPED)

    def close(self) -> None:
        self.stop()
        self._connections.close()

    def _request(self, body: bytes, request_id: str) -> bytes:
        head = b"%sX-Request-ID: %s\r\nContent-Length: %d\r\n\r\n" % (self._head, request_id.encode(), len(body))
        return head + body

    async def _post_anew(self, body: bytes, request_id: str, reader: AnswerReader) -> Answer:
        """An attempt on a new connection."""
        connection = await self._connect(reader)
        if connection is None:
            return reader.answer
        answer = await self._end(self._send(connection, self._request(body, request_id), reader))
        self._connections.release(connection)
        return answer

    async def _connect(self, reader: AnswerReader) -> Connection | None:
        """A new connection, or None with the fault in the reader's answer."""
        limit = asyncio.timeout(0.0 if self._stopped else self._timeout_s)
        self._connecting.add(limit)
        try:
            async with limit:
                return await self._connections.open()
        except OSError as error:  # a TimeoutError is one: the limit's, or the system's own
            reader.answer.fault = self._connect_fault(error, at_limit=limit.expired())
        finally:
            self._connecting.discard(limit)
        return None

    def _connect_fault(self, error: OSError, *, at_limit: bool) -> Fault:
        if at_limit and self._stopped:
            return _STOPPED
        reason = f"no connection in {self._timeout_s:g} s" if at_limit else error.strerror or str(error)
        return Fault(FaultKind.CONNECT, reason)

    def _send(self, connection: Connection, request: bytes, reader: AnswerReader) -> Exchange:
        left_s = max(reader.answer.sent_s + self._timeout_s - time.monotonic(), 0.0)
        timer = asyncio.get_running_loop().call_later(left_s, self._give_up, connection)
        self._active.add(connection)
        if self._stopped:
            connection.abandon(_STOPPED)
            reader.on_end(_STOPPED)
        else:
            connection.send(request, reader)
        return Exchange(connection, reader, timer)

    async def _end(self, exchange: Exchange) -> Answer:
        try:
            await exchange.reader.finished
        finally:
            exchange.timer.cancel()
            self._active.discard(exchange.connection)
        return exchange.reader.answer

    def _give_up(self, connection: Connection) -> None:
        connection.abandon(Fault(FaultKind.TIMEOUT, f"no whole answer in {self._timeout_s:g} s"))


def _is_lost(answer: Answer) -> bool:
    return answer.fault is not None and answer.fault.kind is FaultKind.RESET
