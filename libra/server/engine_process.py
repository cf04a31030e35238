"""The engine in a process of its own.

There it has an interpreter, so that nobody else's Python keeps it from its next kernel, and the only OpenMP team: a
second one, of any other thread that computes, would have all of them give up their cores at every barrier.
"""

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

from libra.errors import LibraError
from libra.server.engine_loop import EngineLoop, EngineParts
from libra.server.messages import Refused, frame

_STOP_S = 10.0


class EngineProcess:
    """A process that makes an engine and runs it until ``connection``, this side of a pair of sockets, is closed, which
    is at the end of the block. A block that ends with an exception waits for nothing. However this process ends, that
    one ends with it, also while it makes the engine."""

    def __init__(self, make_parts: Callable[[], EngineParts]) -> None:
        """``make_parts`` is called there, and pickled: a function that can be imported, or a partial of one. What it
        raises as LibraError comes through the socket."""
        self.connection, theirs = socket.socketpair()
        with theirs:
            self._process: BaseProcess = multiprocessing.get_context("spawn").Process(
                target=_run, args=(theirs, make_parts), name="libra engine"
            )
            self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
        self._process.join(_STOP_S if error is None else 0.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _run(connection: socket.socket, make_parts: Callable[[], EngineParts]) -> None:
    # Signals to the whole group are for the server, which drains, and closes the connection when it is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_server, name="server watch", daemon=True).start()
    with connection:
        try:
            parts = make_parts()
        except LibraError as error:
            connection.sendall(frame(Refused(str(error))))
            return
        EngineLoop(parts, connection).run()


def _end_with_server() -> None:
    """Ends this process when the server's is gone, killed perhaps; what it does then is for nobody."""
    server = multiprocessing.parent_process()
    assert server is not None, "this is the engine's process"
    server.join()
    os._exit(1)
