"""A sender's work as one picklable value, and the process that does it."""

import asyncio
import gc
import importlib.util
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import TYPE_CHECKING

from bench.replay.client import Client
from bench.replay.http import Address
from bench.replay.observation import Observation
from bench.replay.prompts import BodyOptions, BodyWriter, ChatBodies, TextBodies, TokenIdBodies
from bench.replay.sender import Sender, SendOptions
from bench.replay.settings import CHAT, EventLoop, PromptForm
from libra.engine.upcoming import Upcoming
from libra.errors import LibraError
from libra.request import Request
from libra.short_slices import ask_for_short_slices

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

READY, STOP = "ready", "stop"
_REPORT_S = 0.2
_FIRST_S, _MAX_FIRST = 1.0, 2000


@dataclass(frozen=True)
class Job:
    """Everything one sender needs. ``outputs`` are the segments that stand for answers."""

    address: Address
    endpoint: str
    headers: Mapping[str, str]
    timeout_s: float
    prompt: PromptForm
    body: BodyOptions
    models: Mapping[str | None, str]
    outputs: frozenset[str]
    send: SendOptions
    requests: tuple[Request, ...] = ()
    loop: EventLoop = EventLoop.ASYNCIO

    def client(self) -> Client:
        return Client(self.address, self.endpoint, self.headers, self.timeout_s)

    def num_first_connections(self) -> int:
        """How many connections to open before time zero: one for each request of the first second, as far as there
        are slots. Opened when they are needed, they would make late what is due then."""
        num_requests = sum(not request.after and request.arrival_s < _FIRST_S for request in self.requests)
        slots = self.send.max_concurrency
        return min(num_requests, _MAX_FIRST, num_requests if slots is None else slots)

    def writer(self) -> BodyWriter:
        if self.endpoint == CHAT:
            return ChatBodies(self.body, self.models, self.outputs)
        kind = TokenIdBodies if self.prompt is PromptForm.TOKENS else TextBodies
        return kind(self.body, self.models, self.outputs)


@dataclass(frozen=True)
class JobResult:
    """What a sender brings back. ``end_s`` is when its last request ended, in seconds from the start of the run;
    ``processor_s`` is its processor time."""

    observations: list[Observation]
    num_reconnects: int
    end_s: float
    processor_s: float
    stopped: bool


def fastest_loop() -> EventLoop:
    """uvloop where it is installed, else asyncio."""
    return EventLoop.ASYNCIO if importlib.util.find_spec("uvloop") is None else EventLoop.UVLOOP


def loop_factory(loop: EventLoop) -> "Callable[[], AbstractEventLoop]":
    """What makes the event loop. Raises LibraError when uvloop is asked for and not installed."""
    if loop is EventLoop.ASYNCIO:
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        raise LibraError("--loop uvloop: uvloop is not installed; install it, or use --loop asyncio") from None
    factory: Callable[[], AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def run_job(job: Job, upcoming: Upcoming, start_s: float, pipe: Pipe | None = None) -> JobResult:
    """Sends a job's requests, which are ``upcoming``, from ``start_s`` on; ``pipe`` is told how many are done, and may
    say STOP."""
    client = job.client()
    report = _reporter(pipe) if pipe is not None else None
    sender = Sender(client, job.writer(), job.models, job.send, report)
    if pipe is not None:
        _stop_on_word(sender, pipe)
    processor_s = time.process_time()
    try:
        await client.reach(job.num_first_connections(), start_s)
        await sender.run(upcoming, start_s)
    finally:
        client.close()
    return JobResult(
        observations=sender.observations,
        num_reconnects=client.num_reconnects,
        end_s=time.monotonic() - start_s,
        processor_s=time.process_time() - processor_s,
        stopped=sender.stopped,
    )


def work(job: Job, pipe: Pipe) -> None:
    """The body of a sender's process: says READY, waits for the start, sends, and hands back a JobResult.

    An interrupt from the terminal reaches the whole process group; only the parent acts on it and says STOP.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_file_limit()
    ask_for_short_slices()
    upcoming = Upcoming(job.requests)
    pipe.send(READY)
    start_s = pipe.recv()
    if start_s == STOP:
        return
    # A collection would hold up every request for as long as it takes to walk what the run has gathered. All that it
    # could free is what asyncio leaves of a closed connection, 1 KiB each.
    gc.disable()
    with asyncio.Runner(loop_factory=loop_factory(job.loop)) as runner:
        # Before the loop is closed, which waits for a name server where one was asked.
        pipe.send(runner.run(run_job(job, upcoming, start_s, pipe)))


def raise_file_limit() -> None:
    """Allows this process as many open connections as the system lets it have."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _stop_on_word(sender: Sender, pipe: Pipe) -> None:
    """Stops the sender when its parent says STOP, or is gone. A thread waits for the word: watching the pipe from the
    event loop would make it non-blocking, and a result does not fit into a pipe at once."""
    loop = asyncio.get_running_loop()

    def listen() -> None:
        with suppress(EOFError, OSError):
            pipe.recv()
        with suppress(RuntimeError):  # the loop is closed: all is done
            loop.call_soon_threadsafe(sender.stop)

    threading.Thread(target=listen, daemon=True).start()


def _reporter(pipe: Pipe) -> Callable[[int], None]:
    next_s = 0.0

    def report(num_done: int) -> None:
        nonlocal next_s
        now_s = time.monotonic()
        if now_s >= next_s:
            next_s = now_s + _REPORT_S
            pipe.send(num_done)

    return report
