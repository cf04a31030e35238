"""Connections to one server, kept for the next request."""

import asyncio
import socket
import ssl

from bench.replay.faults import Fault, FaultKind
from bench.replay.http import Address, Connection


class Connections:
    """Connections to one server, opened as needed and used again, the latest first."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._tls = ssl.create_default_context() if address.is_tls else None
        self._host: str | None = None
        self._idle: list[Connection] = []

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """An idle connection, or a new one (always a new one when ``fresh``). Raises OSError when there is none."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        if self._host is None:
            self._host = await self._reachable_host()
        return await self._connect(self._host)

    async def _reachable_host(self) -> str:
        """The first address that takes a connection, in numbers: a name is looked up once, not for every request."""
        address, loop = self._address, asyncio.get_running_loop()
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        for host in dict.fromkeys(str(entry[4][0]) for entry in found):
            try:
                self._idle.append(await self._connect(host))
            except OSError as error:
                failure = error
            else:
                return host
        raise failure or OSError(f"{address.host} has no address")

    async def _connect(self, host: str) -> Connection:
        name = self._address.host if self._tls else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, host, self._address.port, ssl=self._tls, server_hostname=name
        )
        return connection

    def release(self, connection: Connection) -> None:
        """Takes back a connection whose exchange has ended."""
        connection.used = True
        if connection.reusable:
            self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.abandon(Fault(FaultKind.INTERRUPTED))
        self._idle.clear()
