"""The open loop: every request goes out at its time on an absolute schedule, whatever became of those before it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.replay.answer import Answer
from bench.replay.client import Client
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
        self._slots = None if options.max_concurrency is None else asyncio.Semaphore(options.max_concurrency)
        self._ended: list[RequestRecord] = []  # what Upcoming reads; it only grows
        self._answers: dict[str, Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()  # tasks that have nothing under way at the server
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
            if not (upcoming or self._tasks):
                break
            await self._pause(start_s + upcoming.next_arrival_s - PREPARE_S)
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._failure is not None:
            raise self._failure
        self.observations += [_cancelled(record, self._models) for record in upcoming.cancelled]

    def stop(self) -> None:
        self.stopped = True
        self._changed.set()
        for task in self._waiting:
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
        body = self._writer.write(request, self._answers)
        task = asyncio.create_task(self._serve(request, body))
        self._tasks.add(task)
        self._waiting.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._waiting.discard(task)
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self.stop()

    async def _serve(self, request: Request, body: bytes) -> None:
        observation = scheduled(request, self._models[request.adapter])
        try:
            await self._reach_slot(observation)
        except asyncio.CancelledError:  # by stop
            observation.record.reason = "the run was stopped before it was sent"
        else:
            try:
                answer = await self._attempts(observation, body, request)
            finally:
                self._leave_slot()
            take_in(observation, answer, self._start_s, exact_prompt=self._writer.is_exact)
            if request.output in self._options.answers and observation.finished and request.output is not None:
                self._answers[request.output] = answer
        self.observations.append(observation)
        self._ended.append(observation.record)
        if self._on_done is not None:
            self._on_done(len(self.observations))

    async def _reach_slot(self, observation: Observation) -> None:
        """Waits for the request's time and then for a slot, and notes both delays."""
        due_s = self._start_s + observation.record.arrival_s
        delay_s = due_s - time.monotonic()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        ready_s = time.monotonic()
        if self._slots is not None:
            await self._slots.acquire()
            observation.slot_wait_s = time.monotonic() - ready_s
        observation.send_lag_s = max(ready_s - due_s, 0.0)

    def _leave_slot(self) -> None:
        if self._slots is not None:
            self._slots.release()

    async def _attempts(self, observation: Observation, body: bytes, request: Request) -> Answer:
        """Sends the request, and again after transient failures as often as the options allow; every one is noted."""
        identifier = f"{self._options.id_prefix}-{request.id}"
        keep = request.output in self._options.answers
        task = asyncio.current_task()
        assert task is not None
        while True:
            self._waiting.discard(task)
            answer = await self._client.post(body, identifier, keep=keep)
            observation.attempts += 1
            observation.sent_s = answer.sent_s - self._start_s
            if answer.fault is None:
                return answer
            observation.faults += (answer.fault.label,)
            if not answer.fault.is_transient or observation.attempts > self._options.retries or self.stopped:
                return answer
            backoff_s = answer.fault.retry_after_s
            if backoff_s is None:
                backoff_s = _FIRST_BACKOFF_S * 2.0 ** (observation.attempts - 1)
            self._waiting.add(task)
            try:
                await asyncio.sleep(backoff_s)
            except asyncio.CancelledError:  # by stop
                answer.fault = Fault(FaultKind.INTERRUPTED, "the run was stopped between two attempts")
                return answer


def _cancelled(record: RequestRecord, models: Mapping[str | None, str]) -> Observation:
    return Observation(record, models[record.adapter], record.output_tokens)
