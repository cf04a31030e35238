"""The open loop against the stub: schedules, slots, retries, held turns, and stopping."""

import asyncio
import importlib.util
import sys
import time
from collections.abc import Awaitable, Callable

import pytest

from bench.replay.client import Client
from bench.replay.connections import Connections
from bench.replay.http import parse_url
from bench.replay.job import Job, fastest_loop, loop_factory
from bench.replay.observation import Observation
from bench.replay.prompts import BodyOptions, TokenIdBodies
from bench.replay.sender import Sender, SendOptions
from bench.replay.settings import COMPLETIONS, EventLoop, PromptForm
from libra.engine.upcoming import Upcoming
from libra.errors import LibraError
from libra.request import Request, Segment
from tests.bench.replay.stub_server import Behaviour, Stub, serving

MODELS = {None: "stub", "lora-00": "lora-00"}


def request(number: int, arrival_s: float, **changes: object) -> Request:
    fields: dict[str, object] = {
        "id": number,
        "arrival_s": arrival_s,
        "adapter": "lora-00",
        "output_tokens": 3,
        "prompt": (Segment(f"t{number}", 0, 5),),
        "output": f"o{number}",
    }
    return Request(**(fields | changes))  # type: ignore[arg-type]


def send(
    behaviour: Behaviour,
    requests: list[Request],
    options: SendOptions = SendOptions(),
    during: Callable[[Sender], Awaitable[None]] | None = None,
    timeout_s: float = 5.0,
    loop: EventLoop = EventLoop.ASYNCIO,
) -> tuple[list[Observation], Stub]:
    """All observations by id, and the stub they were made at."""

    async def run() -> tuple[list[Observation], Stub]:
        async with serving(behaviour) as stub:
            job = Job(
                address=parse_url(stub.url),
                endpoint=COMPLETIONS,
                headers={},
                timeout_s=timeout_s,
                prompt=PromptForm.TOKENS,
                body=BodyOptions(vocab_size=100, ask_token_ids=bool(options.answers)),
                models=MODELS,
                outputs=frozenset(),
                send=options,
            )
            client = job.client()
            sender = Sender(client, job.writer(), MODELS, options)
            work = asyncio.create_task(sender.run(Upcoming(requests), time.monotonic() + 0.05))
            if during is not None:
                await during(sender)
            await work
            client.close()
            return sorted(sender.observations, key=lambda seen: seen.record.id), stub

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(run())


@pytest.mark.parametrize("loop", EventLoop)
def test_arrivals_keep_an_absolute_schedule(loop: EventLoop) -> None:
    if loop is EventLoop.UVLOOP:
        pytest.importorskip("uvloop")
    # No request waits for an answer: there is none before all are out.
    requests = [request(number, 0.02 * number) for number in range(20)]
    seen, stub = send(Behaviour(together=20), requests, timeout_s=10.0, loop=loop)
    assert len(stub.bodies) == 20
    assert all(item.finished for item in seen)
    assert [item.record.arrival_s for item in seen] == [0.02 * number for number in range(20)]
    lags = [item.send_lag_s or 0.0 for item in seen]
    assert min(lags) >= 0.0
    assert sum(lags) / len(lags) < 1.0, "a moment's stall of the machine is allowed, another clock is not"


def test_latency_counts_from_the_schedule_where_slots_are_few() -> None:
    seen, _ = send(Behaviour(ttft_s=0.1), [request(number, 0.0) for number in range(3)], SendOptions(max_concurrency=1))
    last = max(seen, key=lambda item: item.slot_wait_s)
    assert last.slot_wait_s > 0.18
    assert last.record.first_token_s is not None
    assert last.sent_s is not None
    from_schedule, from_sending = last.record.first_token_s, last.record.first_token_s - last.sent_s
    assert from_schedule > 0.28
    assert from_sending < from_schedule - 0.15

    assert [item.first_sent_s for item in seen] == pytest.approx([item.sent_s for item in seen])


@pytest.mark.parametrize("options", [SendOptions(), SendOptions(max_concurrency=4)])
def test_a_busy_generator_s_delay_is_send_lag(options: SendOptions) -> None:
    """Also between the time when a request is found due and the time when its task gets to run."""

    async def run() -> Observation:
        async with serving(Behaviour()) as stub:
            client = Client(parse_url(stub.url), COMPLETIONS, {}, 5.0)
            sender = Sender(client, TokenIdBodies(BodyOptions(100), MODELS, frozenset()), MODELS, options)
            start_s = time.monotonic()
            work = asyncio.create_task(sender.run(Upcoming([request(0, 2.0)]), start_s))
            await asyncio.sleep(0.1)
            time.sleep(max(start_s + 2.0 - time.monotonic(), 0.0))
            client.departures.leave(time.monotonic())
            time.sleep(0.1)
            await work
            client.close()
            return sender.observations[0]

    seen = asyncio.run(run())
    assert seen.send_lag_s is not None
    assert seen.send_lag_s >= 0.1
    assert seen.slot_wait_s == 0.0
    assert seen.first_sent_s == pytest.approx(seen.sent_s)


def test_failures_are_rows_of_their_own_status() -> None:
    seen, _ = send(Behaviour(script=["429", "500", "cut"]), [request(number, 0.1 * number) for number in range(4)])
    assert [item.record.status for item in seen] == ["rejected", "aborted", "aborted", "finished"]
    assert [item.faults for item in seen] == [("http 429",), ("http 500",), ("cut short",), ()]
    assert seen[0].record.reason == "http 429: told to answer 429"


def test_retries_are_counted_and_stay_inside_the_latency() -> None:
    seen, stub = send(
        Behaviour(script=["429", "503"], retry_after="0.1"),
        [request(0, 0.0), request(1, 0.0, after=(0,))],
        SendOptions(retries=2),
    )
    assert [item.attempts for item in seen] == [3, 1]
    assert seen[0].faults == ("http 429", "http 503")
    assert seen[0].finished
    assert (seen[0].record.first_token_s or 0.0) > 0.2
    assert len(stub.bodies) == 4


def test_nothing_is_sent_again_unless_asked() -> None:
    seen, stub = send(Behaviour(script=["503"]), [request(0, 0.0)])
    assert (seen[0].attempts, len(stub.bodies)) == (1, 1)


def test_a_request_waits_for_those_it_names() -> None:
    requests = [request(0, 0.0), request(1, 0.0, after=(0,), delay_s=0.2)]
    seen, _ = send(Behaviour(ttft_s=0.2), requests)
    finish_s = seen[0].record.finish_s
    assert finish_s is not None
    assert seen[1].record.arrival_s == pytest.approx(finish_s + 0.2, abs=1e-6)
    assert (seen[1].first_sent_s or 0.0) >= seen[1].record.arrival_s


def test_a_request_whose_parent_fails_is_cancelled() -> None:
    requests = [request(0, 0.0), request(1, 0.0, after=(0,)), request(2, 0.0, after=(1,))]
    seen, stub = send(Behaviour(script=["400"]), requests)
    assert [item.record.status for item in seen] == ["rejected", "cancelled", "cancelled"]
    assert len(stub.bodies) == 1


def test_own_answers_are_sent_back() -> None:
    _, stub = send(Behaviour(token_ids=True), two_turns(), SendOptions(answers=frozenset({"o0"})))
    assert stub.bodies[0]["return_token_ids"] is True
    assert stub.bodies[1]["prompt"][:5] == stub.bodies[0]["prompt"]
    assert stub.bodies[1]["prompt"][5:8] == [0, 1, 2]  # what the stub had said


def two_turns() -> list[Request]:
    """The second prompt holds 5 tokens, the answer of 3 to the first, and 2 more."""
    first = request(0, 0.0)
    return [first, request(1, 0.0, after=(0,), prompt=(*first.prompt, Segment("o0", 0, 3), Segment("t1", 0, 2)))]


def test_the_length_of_a_prompt_is_that_of_what_was_sent() -> None:
    seen, stub = send(Behaviour(token_ids=True, short_by=1), two_turns(), SendOptions(answers=frozenset({"o0"})))
    assert stub.bodies[1]["prompt"][5:7] == [0, 1]
    assert [item.record.prompt_tokens for item in seen] == [5, 9]
    assert [item.told_prompt_tokens for item in seen] == [5, 9]


def test_answers_without_token_ids_cannot_be_sent_back() -> None:
    seen, stub = send(Behaviour(), two_turns(), SendOptions(answers=frozenset({"o0"})))
    assert [item.record.status for item in seen] == ["aborted", "cancelled"]
    assert seen[0].faults == ("no token ids",)
    assert len(stub.bodies) == 1


def test_stopping_does_not_wait_for_connections_and_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_: Connections) -> None:
        await asyncio.sleep(60.0)

    async def stop_soon(sender: Sender) -> None:
        await asyncio.sleep(0.3)
        sender.stop()

    monkeypatch.setattr(Connections, "open", hang)
    start_s = time.monotonic()
    options = SendOptions(max_concurrency=1, retries=3)
    seen, _ = send(Behaviour(), [request(0, 0.0), request(1, 0.1)], options, stop_soon, timeout_s=50.0)
    assert time.monotonic() - start_s < 10
    assert [item.record.status for item in seen] == ["unfinished", "unfinished"]
    assert seen[0].record.reason == "interrupted: the run was stopped"
    assert seen[1].record.reason == "the run was stopped before it was sent"
    assert seen[1].first_sent_s is None


def test_stopping_keeps_what_there_is() -> None:
    async def stop_soon(sender: Sender) -> None:
        while not sender.observations:
            await asyncio.sleep(0.01)
        await asyncio.sleep(2.0)
        sender.stop()

    requests = [request(0, 0.0), request(1, 0.2, output_tokens=3000), request(2, 60.0)]
    start_s = time.monotonic()
    seen, _ = send(Behaviour(tpot_s=0.01), requests, during=stop_soon, timeout_s=50.0)
    assert time.monotonic() - start_s < 20
    assert [item.record.status for item in seen[:2]] == ["finished", "unfinished"]
    assert seen[1].record.token_times
    assert seen[1].record.reason == "interrupted: the run was stopped"
    assert len(seen) == 2  # the third was never due


def test_the_server_s_own_account_of_a_request_is_joined() -> None:
    seen, _ = send(Behaviour(ttft_s=0.1, server="libra"), [request(0, 0.0)])
    record = seen[0].record
    assert (record.adapter_tier, record.hbm_hit_tokens, record.host_hit_tokens) == ("host", 3, 1)
    parts = record.queue_s + record.adapter_load_s + record.kv_load_s + record.prefill_s
    assert record.first_token_s is not None
    assert parts == pytest.approx(record.first_token_s - record.arrival_s)
    assert (record.adapter_load_s, record.prefill_s) == (0.004, 0.002)


def test_uvloop_is_taken_where_it_is_and_missed_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert fastest_loop() is EventLoop.UVLOOP
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert fastest_loop() is EventLoop.ASYNCIO
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(LibraError, match="uvloop is not installed"):
        loop_factory(EventLoop.UVLOOP)
