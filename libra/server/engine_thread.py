"""The engine in a thread of its own, and what the event loop and it say to each other.

event loop  --- commands (a queue) -------------------------------->  engine thread, before its next step
event loop  <-- what a step made, one call for all its sequences ---  engine thread, after the step
"""

import asyncio
import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from libra.engine.engine import Engine
from libra.engine.link import Transfer
from libra.engine.record import RequestRecord
from libra.engine.sequence import SamplingParams, Sequence, SequenceState, TokenLogprobs
from libra.request import Request
from libra.server.snapshot import Snapshot, take_snapshot

logger = logging.getLogger("libra.server")

T = TypeVar("T")

SNAPSHOT_INTERVAL_S = 0.5
NUM_SNAPSHOTS = 600
# How long an engine with nothing to compute sleeps between looks at a link that moves something: at first, as a share
# of the time it has waited (so that looking rarely delays a load by no more), and at most.
_POLL_S, _POLL_SHARE, _MAX_POLL_S = 0.0005, 0.05, 0.02


class EngineStopped(Exception):
    """The engine thread has ended and answers no more."""


class News(NamedTuple):
    """What a step made of one stream: tokens, or its end. ``record`` comes with the last news, and once only.

    ``stopped``: the last token is a stop token. ``fault``: why the answer is not whole, where it is not.
    """

    tokens: list[int]
    logprobs: list[TokenLogprobs]
    record: RequestRecord | None = None
    stopped: bool = False
    fault: str | None = None


@dataclass(slots=True, eq=False)
class Stream:
    """One sequence as both sides see it. ``listener`` is called in the event loop; ``sequence`` and ``num_told`` are
    the engine thread's alone."""

    request: Request
    sampling: SamplingParams
    listener: Callable[["Stream", News], None]
    sequence: Sequence | None = None
    num_told: int = 0


class EngineThread(threading.Thread):
    """Steps the engine while there is work, sleeps while there is none.

    ``submit``, ``abort``, ``finish`` and ``call`` are for the event loop's thread. ``snapshots`` are the latest, oldest
    first. When the engine raises, ``failure`` says why, and every open stream and call ends with it.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="engine", daemon=True)
        self.engine = engine
        self.snapshots: deque[Snapshot] = deque([take_snapshot(engine)], maxlen=NUM_SNAPSHOTS)
        self.failure: str | None = None
        self.streams: dict[int, Stream] = {}
        self._loop = loop
        self._calls: set[asyncio.Future[Any]] = set()
        self._commands: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._live: dict[int, Stream] = {}
        self._ended: dict[int, RequestRecord] = {}
        self._next_snapshot_s = 0.0
        self._idle_since_s: float | None = None
        engine.on_record = self._note_end
        engine.on_failed_load = _log_failed_load

    # ---- the event loop's side -------------------------------------------------------------------------------------

    def submit(self, stream: Stream) -> None:
        """Queues a request with the engine; its listener hears of everything that follows."""
        self._check_alive()
        self.streams[stream.request.id] = stream
        self._commands.put(lambda: self._start_stream(stream))

    def abort(self, stream: Stream) -> None:
        """Ends a stream before the next step; its last news says so. No effect on one that has ended."""
        self._commands.put(lambda: self._end_stream(stream, as_finished=False))

    def finish(self, stream: Stream) -> None:
        """The same for an answer that is whole as it is."""
        self._commands.put(lambda: self._end_stream(stream, as_finished=True))

    async def call(self, action: Callable[[Engine], T]) -> T:
        """Runs ``action`` on the engine between two steps and returns, or raises, what it does."""
        self._check_alive()
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.add(future)
        self._commands.put(lambda: self._act(action, future))
        try:
            return await future
        finally:
            self._calls.discard(future)

    def stop(self) -> None:
        """Ends the thread after the step under way; open streams are not told."""
        self._commands.put(None)

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise EngineStopped(self.failure)

    def _deliver(self, batch: list[tuple[Stream, News]]) -> None:
        for stream, news in batch:
            if news.record is not None:
                self.streams.pop(stream.request.id, None)
            stream.listener(stream, news)

    def _bury(self, failure: str) -> None:
        """Tells everybody that nothing more will come."""
        self.failure = failure
        for stream in list(self.streams.values()):
            stream.listener(stream, News([], [], fault=failure))
        self.streams.clear()
        for future in self._calls:
            if not future.done():
                future.set_exception(EngineStopped(failure))

    # ---- the engine's side -----------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            wait_s = 0.0
            while self._obey(wait_s):
                wait_s = self._step()
                self._publish()
                self._take_snapshot()
        except Exception as error:  # whatever it is, nobody may wait for this engine any more
            logger.exception("the engine has died")
            self._loop.call_soon_threadsafe(self._bury, f"the engine has died: {type(error).__name__}: {error}")

    def _obey(self, wait_s: float) -> bool:
        """Carries out all commands there are, waiting for the first up to ``wait_s``. False when told to stop."""
        try:
            command = self._commands.get(timeout=wait_s) if wait_s > 0 else self._commands.get_nowait()
            while command is not None:
                command()
                command = self._commands.get_nowait()
        except queue.Empty:
            return True
        return False

    def _step(self) -> float:
        """Steps the engine once and returns how long to wait for a command before the next step."""
        if self.engine.step():
            self._idle_since_s = None
            return 0.0
        now_s = self.engine.clock.now()
        if self._idle_since_s is None:
            self._idle_since_s = now_s
        return self._sleep_s(now_s, now_s - self._idle_since_s)

    def _sleep_s(self, now_s: float, idle_s: float) -> float:
        """How long nothing can happen that nobody commands, when nothing has for ``idle_s``."""
        engine = self.engine
        link = engine.manager.memory.link
        until_s = min(engine.next_event_s(), self._next_snapshot_s)
        if link.pending() and link.next_completion_s() is None:
            until_s = min(until_s, now_s + min(max(idle_s * _POLL_SHARE, _POLL_S), _MAX_POLL_S))
        return max(until_s - now_s, 0.0) if until_s < math.inf else SNAPSHOT_INTERVAL_S

    def _start_stream(self, stream: Stream) -> None:
        self._live[stream.request.id] = stream
        stream.sequence = self.engine.submit(stream.request, stream.sampling)

    def _end_stream(self, stream: Stream, as_finished: bool) -> None:
        sequence = stream.sequence
        if sequence is None:
            return
        if as_finished and sequence.state is SequenceState.RUNNING:
            self.engine.finish(sequence)
        else:
            self.engine.abort(sequence)

    def _act(self, action: Callable[[Engine], T], future: "asyncio.Future[T]") -> None:
        try:
            result = action(self.engine)
        except Exception as error:  # noqa: BLE001 - belongs to the caller
            self._loop.call_soon_threadsafe(_set_exception, future, error)
        else:
            self._loop.call_soon_threadsafe(_set_result, future, result)

    def _note_end(self, record: RequestRecord) -> None:
        self._ended[record.id] = record

    def _publish(self) -> None:
        """Hands what is new to the event loop."""
        batch: list[tuple[Stream, News]] = []
        for stream in self._live.values():
            sequence = stream.sequence
            assert sequence is not None
            record = self._ended.get(stream.request.id)
            if record is not None or sequence.num_output_tokens > stream.num_told:
                batch.append((stream, _news(stream, sequence, record)))
        for stream, news in batch:
            if news.record is not None:
                del self._live[stream.request.id], self._ended[stream.request.id]
        if batch:
            self._loop.call_soon_threadsafe(self._deliver, batch)

    def _take_snapshot(self) -> None:
        now_s = self.engine.clock.now()
        if now_s >= self._next_snapshot_s:
            self.snapshots.append(take_snapshot(self.engine))
            self._next_snapshot_s = now_s + SNAPSHOT_INTERVAL_S


def _news(stream: Stream, sequence: Sequence, record: RequestRecord | None) -> News:
    start, stream.num_told = stream.num_told, sequence.num_output_tokens
    tokens = sequence.tokens[sequence.num_prompt_tokens + start : sequence.num_tokens].tolist()
    fault = None
    if record is not None and sequence.state is not SequenceState.FINISHED:
        fault = record.reason or sequence.state.value
    return News(tokens, sequence.logprobs[start:], record, sequence.is_stopped, fault)


def _log_failed_load(load: Transfer) -> None:
    logger.warning("adapter %s could not be loaded: %s", load.adapter_id, load.error)


def _set_result(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
