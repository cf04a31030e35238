"""Connections to one server, kept for the next request."""

import asyncio
import socket
import ssl
from functools import partial

from bench.replay.departures import Departures
from bench.replay.faults import Fault, FaultKind
from bench.replay.http import Address, Connection


class Connections:
    """Connections to one server, opened as needed and used again, the latest first."""

    def __init__(self, address: Address, departures: Departures) -> None:
        self._address = address
        self._make = partial(Connection, departures)
        self._tls = ssl.create_default_context() if address.is_tls else None
        self._host: str | None = None
        self._idle: list[Connection] = []

    def take_idle(self) -> Connection | None:
        """A connection that waits for its next exchange, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def open(self) -> Connection:
        """A new connection. Raises OSError when there is none to be had."""
        return await (self._reach() if self._host is None else self._connect(self._host))

    async def _reach(self) -> Connection:
        """A connection to the first address that takes one. The address is kept, in numbers: a name is looked up once,
        not for every request."""
        address, loop = self._address, asyncio.get_running_loop()
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        for host in dict.fromkeys(str(entry[4][0]) for entry in found):
            try:
                connection = await self._connect(host)
            except OSError as error:
                failure = error
            else:
                self._host = host
                return connection
        raise failure or OSError(f"{address.host} has no address")

    async def _connect(self, host: str) -> Connection:
        name = self._address.host if self._tls else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            self._make, host, self._address.port, ssl=self._tls, server_hostname=name
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
