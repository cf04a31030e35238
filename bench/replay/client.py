"""One request to the server: connect, send, read, with a limit on the time it may take."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

from bench.replay.answer import Answer, AnswerReader
from bench.replay.connections import Connections
from bench.replay.faults import Fault, FaultKind
from bench.replay.http import Address, Connection

_STOPPED = Fault(FaultKind.INTERRUPTED, "the run was stopped")


class Client:
    """Sends requests to one endpoint. ``num_reconnects`` counts requests that a connection closed while idle had lost,
    and that went out again at once on a new one: HTTP's own repair, which is reported and not a retry."""

    def __init__(self, address: Address, endpoint: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self._connections = Connections(address)
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
        self._stopped = False
        self.num_reconnects = 0

    async def reach(self, until_s: float) -> None:
        """Looks the server up and opens a first connection, so that no request waits for that; gives up at ``until_s``
        of ``time.monotonic``. Where it fails, the requests will meet the same and count it."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(until_s - time.monotonic()):
                self._connections.release(await self._connections.open())

    async def post(self, body: bytes, request_id: str, *, keep: bool = False) -> Answer:
        """One attempt. A failure of any kind is the answer's ``fault``, never an exception."""
        head = b"%sX-Request-ID: %s\r\nContent-Length: %d\r\n\r\n" % (self._head, request_id.encode(), len(body))
        reader = AnswerReader(time.monotonic(), keep)
        connection = self._connections.take_idle() or await self._connect(reader)
        if connection is None:
            return reader.answer
        await self._exchange(connection, head + body, reader)
        if connection.used and not connection.got_bytes and _is_lost(reader.answer):
            self.num_reconnects += 1
            reader = AnswerReader(reader.answer.sent_s, keep)
            connection = await self._connect(reader)
            if connection is None:
                return reader.answer
            await self._exchange(connection, head + body, reader)
        self._connections.release(connection)
        return reader.answer

    def stop(self) -> None:
        """Ends every exchange under way; each ``post`` returns what it has, with the fault ``interrupted``."""
        self._stopped = True
        for connection in tuple(self._active):
            connection.abandon(_STOPPED)

    def close(self) -> None:
        self.stop()
        self._connections.close()

    async def _connect(self, reader: AnswerReader) -> Connection | None:
        """A new connection, or None with the fault in the reader's answer."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._connections.open()
        except TimeoutError:
            reader.answer.fault = Fault(FaultKind.CONNECT, f"no connection in {self._timeout_s:g} s")
        except OSError as error:
            reader.answer.fault = Fault(FaultKind.CONNECT, error.strerror or str(error))
        return None

    async def _exchange(self, connection: Connection, request: bytes, reader: AnswerReader) -> None:
        left_s = max(reader.answer.sent_s + self._timeout_s - time.monotonic(), 0.0)
        timer = asyncio.get_running_loop().call_later(left_s, self._give_up, connection)
        self._active.add(connection)
        try:
            if self._stopped:
                connection.abandon(_STOPPED)
                reader.on_end(_STOPPED)
            else:
                connection.send(request, reader)
            await reader.finished
        finally:
            timer.cancel()
            self._active.discard(connection)

    def _give_up(self, connection: Connection) -> None:
        connection.abandon(Fault(FaultKind.TIMEOUT, f"no whole answer in {self._timeout_s:g} s"))


def _is_lost(answer: Answer) -> bool:
    return answer.fault is not None and answer.fault.kind is FaultKind.RESET
