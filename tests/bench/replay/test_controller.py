"""The parent of the senders, with senders of a few lines in threads."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from bench.interrupts import Interrupts
from bench.replay import controller
from bench.replay.controller import send_traffic
from bench.replay.http import parse_url
from bench.replay.job import READY, STOP, Job, JobResult
from bench.replay.prompts import BodyOptions
from bench.replay.sender import SendOptions
from bench.replay.settings import COMPLETIONS, PromptForm
from libra.errors import LibraError
from libra.request import Request

RESULT = JobResult([], num_reconnects=1, end_s=2.0, processor_s=0.5, stopped=False)
JOB = Job(
    address=parse_url("http://127.0.0.1:9"),
    endpoint=COMPLETIONS,
    headers={},
    timeout_s=1.0,
    prompt=PromptForm.TOKENS,
    body=BodyOptions(100),
    models={None: "m"},
    outputs=frozenset(),
    send=SendOptions(),
    requests=tuple(Request(number, 0.0, None, 1) for number in range(2)),
)

Work = Callable[[Connection], None]


@pytest.fixture
def act(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Work]], list[threading.Thread]]:
    """Has the next senders do what they are given, after which their end of the pipe is closed."""

    def play(works: list[Work]) -> list[threading.Thread]:
        threads: list[threading.Thread] = []

        @contextmanager
        def sender(_: Job) -> Iterator[Connection]:
            ours, theirs = Pipe()

            def run(work: Work) -> None:
                theirs.send(READY)
                theirs.recv()
                work(theirs)
                theirs.close()

            threads.append(threading.Thread(target=run, args=(works[len(threads)],)))
            threads[-1].start()
            yield ours
            ours.close()

        monkeypatch.setattr(controller, "_sender", sender)
        return threads

    return play


def test_an_interrupt_as_senders_end_loses_nothing(act: Callable[[list[Work]], list[threading.Thread]]) -> None:
    interrupts, last_may_end = Interrupts(), threading.Event()

    def end(pipe: Connection) -> None:
        pipe.send(RESULT)

    def end_later(pipe: Connection) -> None:
        last_may_end.wait(10)
        pipe.send(RESULT)

    threads = act([end, end_later])

    def on_progress(_: float, __: int) -> None:
        """The first result has been read, the second waits in its pipe, and nobody is there to be told to stop."""
        threads[0].join(10)
        last_may_end.set()
        threads[1].join(10)
        interrupts.noted = True

    with interrupts:
        traffic = send_traffic(JOB, 2, on_progress, interrupts)
    assert traffic.complete
    assert (traffic.num_reconnects, traffic.duration_s, traffic.processor_s) == (2, 2.0, 1.0)


def test_a_run_is_partial_where_a_sender_was_stopped(act: Callable[[list[Work]], list[threading.Thread]]) -> None:
    interrupts, words = Interrupts(), []

    def end(pipe: Connection) -> None:
        pipe.send(RESULT)

    def end_when_told(pipe: Connection) -> None:
        words.append(pipe.recv())
        pipe.send(replace(RESULT, stopped=True))

    def on_progress(_: float, __: int) -> None:
        interrupts.noted = True

    act([end, end_when_told])
    with interrupts:
        assert not send_traffic(JOB, 2, on_progress, interrupts).complete
    assert words == [STOP]


def test_a_sender_that_dies_is_an_error(act: Callable[[list[Work]], list[threading.Thread]]) -> None:
    act([lambda pipe: None])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(LibraError, match="a sender process ended before its work was done"):
        send_traffic(JOB, 1, lambda time_s, num_done: None)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("slots", "expected"), [(None, 3), (2, 2), (5, 3)])
def test_a_sender_opens_connections_for_its_first_requests(slots: int | None, expected: int) -> None:
    arrivals_s = [0.0, 0.1, 0.9, 1.1, 7.0]
    requests = [Request(number, arrival_s, None, 1) for number, arrival_s in enumerate(arrivals_s)]
    later = Request(9, 0.0, None, 1, after=(0,))
    job = replace(JOB, requests=(*requests, later), send=SendOptions(max_concurrency=slots))
    assert job.num_first_connections() == expected
