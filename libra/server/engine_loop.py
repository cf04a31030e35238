"""The engine's side: steps the engine, in a process of its own, and tells the event loop what comes of it."""

import logging
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libra.engine.engine import Engine
from libra.engine.link import Transfer
from libra.engine.record import RequestRecord
from libra.engine.sequence import Sequence, SequenceState
from libra.server.messages import Call, Died, End, Frames, News, Ready, Reply, Report, Submit, frame
from libra.server.snapshot import take_snapshot

if TYPE_CHECKING:
    from libra.model.adapter_store import AdapterStore

logger = logging.getLogger("libra.server")

SNAPSHOT_INTERVAL_S = 0.5
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class EngineParts:
    """What actions work on: the engine, and the store that its adapters are read from."""

    engine: Engine
    store: "AdapterStore"


@dataclass(slots=True)
class _Live:
    """A request of the engine; ``num_told`` of its tokens have been told."""

    sequence: Sequence
    num_told: int = 0


class EngineLoop:
    """Steps the engine while there is work, rests while there is none, until the other side closes its socket.

    A thread reads what comes, so that a rest ends at once; everything else happens in the thread that calls ``run``.
    An engine that raises is the end: the other side is told why.
    """

    def __init__(self, parts: EngineParts, connection: socket.socket) -> None:
        self.parts = parts
        self._engine = parts.engine
        self._connection = connection
        self._is_closed = False
        self._arrived: deque[Submit] = deque()
        self._commands: deque[End | Call] = deque()
        self._live: dict[int, _Live] = {}
        self._ended: dict[int, RequestRecord] = {}
        self._next_snapshot_s = 0.0
        self._engine.on_record = self._note_end
        self._engine.on_failed_load = _log_failed_load
        self._engine.submit_arrived = self._submit_arrived

    def run(self) -> None:
        """Returns when the other side has gone, or the engine has died; either way the engine's link is closed."""
        self._send(self._ready())
        reader = threading.Thread(target=self._read, name="commands", daemon=True)
        reader.start()
        try:
            while not self._is_closed:
                self.obey()
                is_idle = not self._engine.step()
                self._publish()
                self._tell_state()
                if is_idle:
                    self._engine.clock.rest_until(min(self._engine.next_event_s(), self._next_snapshot_s))
        except Exception as error:  # whatever it is, nobody may wait for this engine any more
            logger.exception("the engine has died")
            self._send(Died(f"the engine has died: {type(error).__name__}: {error}"))
        finally:
            self._engine.manager.memory.link.close()

    def obey(self) -> None:
        """Carries out all that has come. Whatever concerns a request came after it, so requests go before each command,
        also those that came while another was carried out."""
        self._submit_arrived()
        while self._commands:
            command = self._commands.popleft()
            self._submit_arrived()
            if isinstance(command, Call):
                self._act(command)
            elif command.request_id in self._live:
                self._end(self._live[command.request_id].sequence, command.as_finished)

    def _ready(self) -> Ready:
        manager, clock = self._engine.manager, self._engine.clock
        adapters = (None, *self.parts.store)
        return Ready(
            started_s=time.perf_counter() - clock.now(),
            device=self._engine.executor.describe(),
            longest_contexts={adapter: manager.longest_context(adapter) for adapter in adapters},
            snapshot=take_snapshot(self._engine),
        )

    def _read(self) -> None:
        frames = Frames()
        with suppress(ConnectionError):
            while data := self._connection.recv(_CHUNK_BYTES):
                for message in frames.feed(data):
                    (self._arrived if isinstance(message, Submit) else self._commands).append(message)
                self._engine.clock.ring()
        self._is_closed = True
        self._engine.clock.ring()

    def _submit_arrived(self) -> None:
        """Also called while a step computes."""
        while self._arrived:
            request, sampling = self._arrived.popleft()
            self._live[request.id] = _Live(self._engine.submit(request, sampling))

    def _end(self, sequence: Sequence, as_finished: bool) -> None:
        if as_finished and sequence.state is SequenceState.RUNNING:
            self._engine.finish(sequence)
        else:
            self._engine.abort(sequence)

    def _act(self, call: Call) -> None:
        try:
            reply = Reply(call.number, call.action(self.parts, *call.arguments), None)
        except Exception as error:  # noqa: BLE001 - belongs to the caller
            reply = Reply(call.number, None, error)
        self._send(reply)

    def _note_end(self, record: RequestRecord) -> None:
        self._ended[record.id] = record

    def _publish(self) -> None:
        """Tells what is new, in one message for all requests; first tokens first, since each token takes the other side
        some time and nobody has waited longer."""
        news = [
            _news(request_id, live, self._ended.get(request_id))
            for request_id, live in sorted(self._live.items(), key=lambda item: item[1].num_told > 0)
            if request_id in self._ended or live.sequence.num_output_tokens > live.num_told
        ]
        for one in news:
            if one.record is not None:
                del self._live[one.request_id], self._ended[one.request_id]
        if news:
            self._send(news)

    def _tell_state(self) -> None:
        now_s = self._engine.clock.now()
        if now_s >= self._next_snapshot_s:
            self._send(take_snapshot(self._engine))
            self._next_snapshot_s = now_s + SNAPSHOT_INTERVAL_S

    def _send(self, report: Report) -> None:
        try:
            self._connection.sendall(frame(report))
        except ConnectionError:  # nobody is there to hear it
            self._is_closed = True


def _news(request_id: int, live: _Live, record: RequestRecord | None) -> News:
    sequence, start = live.sequence, live.num_told
    live.num_told = sequence.num_output_tokens
    tokens = sequence.tokens[sequence.num_prompt_tokens + start : sequence.num_tokens].tolist()
    fault = None
    if record is not None and sequence.state is not SequenceState.FINISHED:
        fault = record.reason or sequence.state.value
    return News(request_id, tokens, sequence.logprobs[start:], record, sequence.is_stopped, fault)


def _log_failed_load(load: Transfer) -> None:
    logger.warning("adapter %s could not be loaded: %s", load.adapter_id, load.error)
