"""The open loop: every request goes out at its time on an absolute schedule, whatever became of those before it."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from bench.replay.answer import Answer
from bench.replay.client import Client, Exchange
from bench.replay.faults import Fault, FaultKind
from bench.replay.observation import Observation, scheduled, take_in
from bench.replay.prompts import BodyWriter
from libra.engine.record import RequestRecord
from libra.engine.upcoming import Upcoming
from libra.request import Request

# How long before its time a request's body is written, so that writing delays nobody.
PREPARE_S = 0.1
_FIRST_BACKOFF_S = 0.5


@dataclass(frozen=True)
class SendOptions:
    """``max_concurrency`` None is no limit; ``answers`` are the segments whose answers later turns send back."""

    max_concurrency: int | None = None
    retries: int = 0
    answers: frozenset[str] = frozenset()
    id_prefix: str = "libra"


@dataclass(frozen=True, slots=True)
class _Queued:
    """A request that has waited for a slot since ``ready_s``."""

    observation: Observation
    request: Request
    body: bytes
    ready_s: float


class Sender:
    """Sends requests and gathers observations, one per request that came to be due, in ``observations``.

    ``stop`` ends a run early: requests under way become unfinished, later ones are never sent.
    """

    def __init__(
        self,
        client: Client,
        writer: BodyWriter,
        models: Mapping[str | None, str],
        options: SendOptions = SendOptions(),
        on_done: Callable[[int], None] | None = None,
    ) -> None:
        self.observations: list[Observation] = []
        self.stopped = False
        self._client = client
        self._writer = writer
        self._models = models
        self._options = options
        self._on_done = on_done
        self._free_slots = math.inf if options.max_concurrency is None else options.max_concurrency
        self._queue: deque[_Queued] = deque()
        self._ended: list[RequestRecord] = []  # what Upcoming reads; it only grows
        self._answers: dict[str, Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._backing_off: set[asyncio.Task[None]] = set()  # between two attempts
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._start_s = 0.0

    async def run(self, upcoming: Upcoming, start_s: float) -> None:
        """Sends all requests; ``start_s`` is their time zero on ``time.monotonic``. Returns when all have ended."""
        self._start_s = start_s
        while not self.stopped:
            self._changed.clear()
            upcoming.note(self._ended)
            for request in upcoming.take(time.monotonic() - start_s + PREPARE_S):
                self._launch(request)
            if not (upcoming or self._tasks or self._client.departures):
                break
            await self._pause(start_s + upcoming.next_arrival_s - PREPARE_S)
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._failure is not None:
            raise self._failure
        self.observations += [_cancelled(record, self._models) for record in upcoming.cancelled]

    def stop(self) -> None:
        self.stopped = True
        for depart in self._client.departures.clear():
            depart()
        while self._queue:
            self._note_unsent(self._queue.popleft().observation)
        self._changed.set()
        for task in self._backing_off:
            task.cancel()
        self._client.stop()

    async def _pause(self, until_s: float) -> None:
        """Returns at ``until_s`` or when a request ends, whichever comes first."""
        timeout_s = until_s - time.monotonic()
        if timeout_s <= 0:
            await asyncio.sleep(0)
            return
        timer = asyncio.get_running_loop().call_later(min(timeout_s, 3600.0), self._changed.set)
        await self._changed.wait()
        timer.cancel()

    def _launch(self, request: Request) -> None:
        sent = self._writer.as_sent(request, self._answers)
        body = self._writer.write(sent, self._answers)
        self._client.departures.add(self._start_s + sent.arrival_s, partial(self._depart, sent, body))

    def _depart(self, request: Request, body: bytes) -> None:
        """Sends a request whose time has come, or has it wait for a slot."""
        observation = scheduled(request, self._models[request.adapter])
        if self.stopped:
            self._note_unsent(observation)
        elif self._free_slots > 0:
            self._send(observation, request, body)
        else:
            self._queue.append(_Queued(observation, request, body, time.monotonic()))

    def _send(self, observation: Observation, request: Request, body: bytes) -> None:
        """Takes a slot and sends: at once where a connection waits for a request, else from the request's task."""
        self._free_slots -= 1
        begun = self._client.begin(body, *self._terms(request))
        task = asyncio.create_task(self._serve(observation, request, body, begun))
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _terms(self, request: Request) -> tuple[str, bool]:
        """How a request is told apart, and whether its answer is to be kept."""
        return f"{self._options.id_prefix}-{request.id}", request.output in self._options.answers

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self.stop()

    async def _serve(self, observation: Observation, request: Request, body: bytes, begun: Exchange | None) -> None:
        try:
            answer = await self._attempts(observation, request, body, begun)
        finally:
            self._leave_slot()
        take_in(observation, answer, self._start_s, exact_prompt=self._writer.is_exact)
        if request.output in self._options.answers and observation.finished and request.output is not None:
            self._answers[request.output] = answer
        self._note(observation)

    def _note_unsent(self, observation: Observation) -> None:
        observation.record.reason = "the run was stopped before it was sent"
        self._note(observation)

    def _note(self, observation: Observation) -> None:
        """Takes in the observation of a request that has ended."""
        self.observations.append(observation)
        self._ended.append(observation.record)
        if self._on_done is not None:
            self._on_done(len(self.observations))

    def _leave_slot(self) -> None:
        """Gives the slot to whoever has waited longest, and sends that request."""
        self._free_slots += 1
        if self._queue:
            queued = self._queue.popleft()
            queued.observation.slot_wait_s = time.monotonic() - queued.ready_s
            self._send(queued.observation, queued.request, queued.body)

    async def _attempts(
        self, observation: Observation, request: Request, body: bytes, begun: Exchange | None
    ) -> Answer:
        """Sends the request, unless it has ``begun``, and again after transient failures as often as the options allow;
        every one is noted."""
        identifier, keep = self._terms(request)
        while True:
            answer = await self._client.post(body, identifier, keep, begun)
            begun = None
            self._note_attempt(observation, answer)
            if answer.fault is None and keep and self._writer.is_exact and not answer.token_ids:
                answer.fault = Fault(FaultKind.NO_TOKEN_IDS, "the server ignores return_token_ids")
            if answer.fault is None:
                return answer
            observation.faults += (answer.fault.label,)
            if not answer.fault.is_transient or observation.attempts > self._options.retries or self.stopped:
                return answer
            backoff_s = answer.fault.retry_after_s
            if backoff_s is None:
                backoff_s = _FIRST_BACKOFF_S * 2.0 ** (observation.attempts - 1)
            if not await self._back_off(backoff_s):
                answer.fault = Fault(FaultKind.INTERRUPTED, "the run was stopped between two attempts")
                return answer

    def _note_attempt(self, observation: Observation, answer: Answer) -> None:
        """Notes when an attempt began, and of the first how late that was beyond the wait for a slot."""
        observation.attempts += 1
        observation.sent_s = answer.sent_s - self._start_s
        if observation.send_lag_s is None:
            late_s = observation.sent_s - observation.record.arrival_s - observation.slot_wait_s
            observation.send_lag_s = max(late_s, 0.0)

    async def _back_off(self, duration_s: float) -> bool:
        """Sleeps between two attempts. False: ``stop`` has ended it."""
        task = asyncio.current_task()
        assert task is not None
        self._backing_off.add(task)
        try:
            await asyncio.sleep(duration_s)
        except asyncio.CancelledError:  # by stop
            return False
        finally:
            self._backing_off.discard(task)
        return True


def _cancelled(record: RequestRecord, models: Mapping[str | None, str]) -> Observation:
    return Observation(record, models[record.adapter], record.output_tokens)
