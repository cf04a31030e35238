"""The cheapest server that streams tokens over HTTP, so that a measurement of the client measures the client.

It reads requests, and answers each with ``num_tokens`` events ``tpot_s`` apart, each in a chunk and a write of its own.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import cast

from bench.replay.job import loop_factory, raise_file_limit
from bench.replay.settings import EventLoop

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_TOKEN = (
    b'data: {"id":"cmpl-0","object":"text_completion","created":1700000000,"model":"stub","choices":'
    b'[{"index":0,"text":" word","logprobs":null,"finish_reason":null}]}\n\n'
)
_BACKLOG = 4096


@dataclass(frozen=True)
class StubOptions:
    """What every request is answered with."""

    num_tokens: int = 25
    tpot_s: float = 0.02
    loop: EventLoop = EventLoop.ASYNCIO


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class _StubConnection(asyncio.Protocol):
    def __init__(self, options: StubOptions) -> None:
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":%d}}\n\n' % options.num_tokens
        self._token = _chunk(_TOKEN)
        self._last = _chunk(usage) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self._options = options
        self._received = b""
        self._call_later: Callable[..., object] = asyncio.get_running_loop().call_later

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._received = body[length:]
            self._transport.write(_HEAD)
            self._call_later(self._options.tpot_s, self._stream, self._options.num_tokens)

    def _stream(self, num_left: int) -> None:
        if num_left == 0:
            self._transport.write(self._last)
            return
        self._transport.write(self._token)
        self._call_later(self._options.tpot_s, self._stream, num_left - 1)


def serve_stub(options: StubOptions, pipe: Pipe) -> None:
    """The body of the stub's process: tells its port through ``pipe`` and serves until the pipe closes."""
    raise_file_limit()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(_serve(options, pipe))


async def _serve(options: StubOptions, pipe: Pipe) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _StubConnection(options), "127.0.0.1", 0, backlog=_BACKLOG)
    closed = asyncio.Event()
    loop.add_reader(pipe.fileno(), closed.set)
    pipe.send(server.sockets[0].getsockname()[1])
    await closed.wait()
    loop.remove_reader(pipe.fileno())
    server.close()
