"""Runs the senders as processes of their own, so that nothing this process does delays a request."""

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, cast

from bench.interrupts import Interrupts
from bench.replay.answer import Answer
from bench.replay.job import STOP, Job, JobResult, loop_factory, work
from bench.replay.observation import Observation
from bench.replay.settings import EventLoop
from bench.replay.traffic import split_requests
from libra.errors import LibraError
from libra.request import Request, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

# Between the last process being ready and time zero, so that all of them have entered their loops and, at so long for
# each, opened their first connections.
_LEAD_S, _OPENING_S = 0.25, 4e-4
_STOP_S = 5.0
_LOOK_S = 0.25


@dataclass(frozen=True)
class SentTraffic:
    """All senders together. ``start_s`` is time zero on ``time.monotonic``; ``processor_s`` their processor time;
    ``complete`` is False where an interrupt stopped a sender; ``loop`` is the senders' event loop."""

    observations: list[Observation]
    num_reconnects: int
    start_s: float
    duration_s: float
    processor_s: float
    complete: bool
    loop: EventLoop


def send_traffic(
    job: Job, num_workers: int, on_progress: Callable[[float, int], None], interrupts: Interrupts | None = None
) -> SentTraffic:
    """Sends the job's requests from ``num_workers`` processes. An interrupt stops them and keeps what there is: they
    are held from the first request on, for as long as this takes or, where the caller has ``interrupts``, by those.

    Raises LibraError when a sender dies.
    """
    loop_factory(job.loop)  # raises here rather than in a child
    parts = [part for part in split_requests(job.requests, num_workers) if part]
    limit = job.send.max_concurrency
    jobs = [
        replace(job, requests=tuple(part), send=replace(job.send, max_concurrency=_share(limit, index, len(parts))))
        for index, part in enumerate(parts)
    ]
    with ExitStack() as stack:
        pipes = [stack.enter_context(_sender(job)) for job in jobs]
        for pipe in pipes:
            _receive(pipe)
        interrupts = interrupts or stack.enter_context(Interrupts())
        interrupts.hold()
        opening_s = _OPENING_S * max((job.num_first_connections() for job in jobs), default=0)
        start_s = time.monotonic() + _LEAD_S + opening_s
        for pipe in pipes:
            pipe.send(start_s)
        results = _gather(pipes, start_s, on_progress, interrupts)
    observations = sorted((seen for result in results for seen in result.observations), key=lambda seen: seen.record.id)
    return SentTraffic(
        observations,
        sum(result.num_reconnects for result in results),
        start_s,
        max((result.end_s for result in results), default=0.0),
        sum(result.processor_s for result in results),
        not any(result.stopped for result in results),
        job.loop,
    )


def warm_up(job: Job, num_requests: int) -> None:
    """Sends ``num_requests`` requests of their own prompts to the base model, all at once, and waits for them.

    No adapter is loaded and no prefix of the trace is cached by this. Raises LibraError when one of them fails, or
    comes back without the token ids that later turns will need.
    """
    requests = [
        Request(id=number, arrival_s=0.0, adapter=None, output_tokens=8, prompt=(Segment(f"warm-up {number}", 0, 64),))
        for number in range(num_requests)
    ]
    for answer in asyncio.run(_post_all(job, requests)):
        if answer.fault is not None:
            raise LibraError(
                f"{job.address}{job.endpoint}: the warm-up request failed ({answer.fault}); "
                "mend the server or the options, or skip it with --num-warmups 0"
            )
        if job.body.ask_token_ids and not answer.has_token_ids:
            raise LibraError(
                f"{job.address}{job.endpoint}: returns no token ids (return_token_ids), which --answers server is to "
                "send back; add --prompt text, or use --answers recorded"
            )


async def _post_all(job: Job, requests: list[Request]) -> list[Answer]:
    client, writer = job.client(), job.writer()
    try:
        posts = (client.post(writer.write(request, {}), f"warm-up-{request.id}") for request in requests)
        return await asyncio.gather(*posts)
    finally:
        client.close()


def _share(limit: int | None, index: int, num_parts: int) -> int | None:
    return None if limit is None else limit // num_parts + (index < limit % num_parts)


@contextmanager
def _sender(job: Job) -> "Iterator[Pipe]":
    """A sender's process and the pipe to it; the process is gone when the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(_STOP_S)
        if process.is_alive():
            process.terminate()
            process.join()


def _receive(pipe: Pipe) -> object:
    try:
        return cast(object, pipe.recv())
    except (EOFError, OSError):
        raise LibraError("a sender process ended before its work was done; its error is above") from None


def _gather(
    pipes: list[Pipe], start_s: float, on_progress: Callable[[float, int], None], interrupts: Interrupts
) -> list[JobResult]:
    """Collects the results, showing progress; an interrupt asks every sender to stop and then goes on collecting."""
    results: dict[int, JobResult] = {}
    num_done = dict.fromkeys(range(len(pipes)), 0)
    told_to_stop = False
    while len(results) < len(pipes):
        for ready in wait([pipe for index, pipe in enumerate(pipes) if index not in results], timeout=_LOOK_S):
            index = next(index for index, pipe in enumerate(pipes) if pipe is ready)
            message = _receive(pipes[index])
            if isinstance(message, JobResult):
                results[index] = message
                num_done[index] = len(message.observations)
            elif isinstance(message, int):
                num_done[index] = message
        on_progress(max(time.monotonic() - start_s, 0.0), sum(num_done.values()))
        if interrupts.noted and not told_to_stop:
            told_to_stop = True
            for index in num_done.keys() - results.keys():
                # One that has just ended takes no more words, but its result waits in the pipe.
                with suppress(OSError):
                    pipes[index].send(STOP)
    return list(results.values())
