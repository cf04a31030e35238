"""No connection is held for ever by a client that never finishes a request's head, or never reads an answer."""

import asyncio
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler

_LOOKS_PER_TIMEOUT = 4


class ConnectionWatch:
    """Ends connections on which no request has been under way for ``timeout_s``, with what of the last answer has not
    been read by then. aiohttp limits only the pause between two requests, not how long the first may take to come, nor
    how long an answer may wait to be read."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._busy: set[object] = set()
        self._idle_since_s: dict[object, float] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self, server: web.Server) -> None:
        self._task = asyncio.create_task(self._watch(server))

    async def end(self, _: web.Application) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @web.middleware
    async def mark(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Notes that a request is under way."""
        connection = request.protocol
        self._busy.add(connection)
        try:
            return await handler(request)
        finally:
            self._busy.discard(connection)
            self._idle_since_s.pop(connection, None)

    async def _watch(self, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timeout_s / _LOOKS_PER_TIMEOUT)
            now_s = loop.time()
            idle = [connection for connection in server.connections if connection not in self._busy]
            self._idle_since_s = {connection: self._idle_since_s.get(connection, now_s) for connection in idle}
            for connection in idle:
                if now_s - self._idle_since_s[connection] >= self._timeout_s:
                    _end(connection)


def has_unsent(server: web.Server) -> bool:
    """Whether some of what has been written waits until its client reads."""
    transports = [connection.transport for connection in server.connections]
    return any(transport.get_write_buffer_size() > 0 for transport in transports if transport is not None)


def _end(connection: web.RequestHandler) -> None:
    transport = connection.transport
    connection.force_close()
    if transport is not None:
        # Closing alone would wait until a client that does not read has read all that was sent.
        transport.abort()
