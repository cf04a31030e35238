"""The cheapest server that streams tokens over HTTP, so that a measurement of the client measures the client.

It reads requests, and answers each with ``num_tokens`` events ``tpot_s`` apart, each in a chunk and a write of its own.
"""

import asyncio
import gc
import time
from collections import deque
from contextlib import suppress
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


class _Pacer:
    """Writes each answer's next token when its time has come.

    All wait equally long between two tokens, so that the first to wait is the first to go on: one queue and one timer
    do for all of them.
    """

    def __init__(self, options: StubOptions) -> None:
        end = b'data: {"choices":[{"text":"","finish_reason":"length"}],'
        usage = end + b'"usage":{"prompt_tokens":8,"completion_tokens":%d}}\n\n' % options.num_tokens
        self._token = _chunk(_TOKEN)
        self._last = _chunk(usage) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self._num_tokens, self._tpot_s = options.num_tokens, options.tpot_s
        self._waiting: deque[tuple[float, asyncio.Transport, int]] = deque()
        self._loop = asyncio.get_running_loop()

    def begin(self, transport: asyncio.Transport) -> None:
        """Starts an answer; its first token comes a time between tokens later."""
        transport.write(_HEAD)
        if not self._waiting:
            self._loop.call_later(self._tpot_s, self._go_on)
        self._waiting.append((self._loop.time() + self._tpot_s, transport, self._num_tokens))

    def _go_on(self) -> None:
        waiting, now_s = self._waiting, self._loop.time()
        while waiting and waiting[0][0] <= now_s:
            due_s, transport, num_left = waiting.popleft()
            if num_left:
                transport.write(self._token)
                waiting.append((due_s + self._tpot_s, transport, num_left - 1))
            else:
                transport.write(self._last)
        if waiting:
            self._loop.call_at(waiting[0][0], self._go_on)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class _StubConnection(asyncio.Protocol):
    def __init__(self, pacer: _Pacer) -> None:
        self._pacer = pacer
        self._received = b""

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
            self._pacer.begin(self._transport)


def serve_stub(options: StubOptions, pipe: Pipe) -> None:
    """The body of the stub's process: tells its port through ``pipe``, serves until it hears from there or that closes,
    and then tells its processor time in seconds."""
    raise_file_limit()
    gc.disable()
    processor_s = time.process_time()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(_serve(options, pipe))
    with suppress(BrokenPipeError):  # nobody waits for it where the run failed
        pipe.send(time.process_time() - processor_s)


async def _serve(options: StubOptions, pipe: Pipe) -> None:
    loop = asyncio.get_running_loop()
    pacer = _Pacer(options)
    server = await loop.create_server(lambda: _StubConnection(pacer), "127.0.0.1", 0, backlog=_BACKLOG)
    closed = asyncio.Event()
    loop.add_reader(pipe.fileno(), closed.set)
    pipe.send(server.sockets[0].getsockname()[1])
    await closed.wait()
    loop.remove_reader(pipe.fileno())
    server.close()
