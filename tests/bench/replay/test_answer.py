"""What is made of a stream, event by event: which piece is a token, when it came, and whether the answer is whole."""

import asyncio
import json

import pytest

from bench.replay.answer import Answer, AnswerReader
from bench.replay.http import Head

SENT_S = 100.0
DONE = "[DONE]"

Event = dict[str, object] | str | bytes


def text(piece: str, reason: str | None = None, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": piece, "finish_reason": reason}], **more}


def usage(num_tokens: int) -> dict[str, object]:
    return {"prompt_tokens": 5, "completion_tokens": num_tokens}


def framed(event: dict[str, object] | str) -> bytes:
    return b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n"


def read(*events: Event) -> Answer:
    """The answer whose events come one second apart, the first a second after sending; bytes go as they are."""

    async def reading() -> Answer:
        reader = AnswerReader(SENT_S, keep=True)
        reader.on_head(Head(200, {"content-type": "text/event-stream"}))
        for number, event in enumerate(events, start=1):
            reader.on_body(event if isinstance(event, bytes) else framed(event), SENT_S + number)
        reader.on_end(None)
        return reader.answer

    return asyncio.run(reading())


def latencies(answer: Answer) -> list[float]:
    return [time_s - SENT_S for time_s in answer.token_times]


@pytest.mark.parametrize(
    "announcement",
    [
        text(""),
        text("", usage=usage(0)),
        {"choices": [{"delta": {"content": ""}, "finish_reason": None}]},
        {"choices": [{"delta": {"content": None}, "finish_reason": None}]},
        {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    ],
)
def test_the_first_token_is_the_first_with_text(announcement: dict[str, object]) -> None:
    answer = read(announcement, text("a"), text(""), text("b"), text("", "length", usage=usage(3)), DONE)
    assert answer.fault is None
    assert latencies(answer) == [2.0, 3.0, 4.0]
    assert (answer.streamed_tokens, answer.silent_events, answer.completion_tokens) == (3, 1, 3)


def test_an_empty_first_event_is_a_token_where_every_event_was_one() -> None:
    answer = read(text(""), text("a"), text("b"), text("", "length"), {"choices": [], "usage": usage(3)}, DONE)
    assert latencies(answer) == [1.0, 2.0, 3.0]
    assert (answer.streamed_tokens, answer.silent_events) == (3, 1)


def test_an_event_that_counts_no_token_so_far_is_none() -> None:
    answer = read(text("", usage=usage(0)), text("a b", "length", usage=usage(2)), DONE)
    assert latencies(answer) == [2.0]
    assert answer.output_tokens == 2


def test_a_token_id_is_a_token_without_text_too() -> None:
    silent, first = ({"choices": [{"text": "", "token_ids": ids}]} for ids in ([], [7]))
    answer = read(silent, first, silent, text("", "stop"), DONE)
    assert latencies(answer) == [2.0]
    assert (answer.streamed_tokens, answer.token_ids) == (1, (7,))


def test_tokens_that_make_no_text_at_all_are_counted() -> None:
    answer = read(text(""), text(""), text("", "length"), {"choices": [], "usage": usage(3)}, DONE)
    assert answer.fault is None
    assert latencies(answer) == [1.0, 2.0]
    assert answer.streamed_tokens == answer.silent_events == 2


def test_an_announcement_alone_is_no_answer() -> None:
    answer = read(text(""), text("", "stop"), {"choices": [], "usage": usage(0)}, DONE)
    assert str(answer.fault) == "no tokens: usage says 0"
    assert not answer.token_times


def test_a_token_whose_event_has_no_end_came_with_its_piece() -> None:
    answer = read(b": ping\n\n", framed(text("a", "length"))[:-1])
    assert answer.fault is None
    assert latencies(answer) == [2.0]
    assert latencies(read(text("a"), framed(text("b", "length"))[:-1])) == [1.0, 2.0]


BOOM = {"message": "boom", "code": 500}


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        ((text("", "abort"), DONE), "error in stream: finish_reason is abort"),
        ((text("b", "error"),), "error in stream: finish_reason is error"),
        ((b"event: error\n" + framed(BOOM), DONE), "error in stream: boom"),
        ((b"event: error\n" + framed("out of blocks"), text("", "stop"), DONE), "error in stream: out of blocks"),
        ((b"event: error\n" + framed(BOOM)[:-1],), "error in stream: boom"),
        (({**BOOM, "object": "error"}, DONE), "error in stream: boom"),
        (({"error": BOOM}, DONE), "error in stream: boom"),
        ((text("", ""), DONE), "cut short: the stream ended after 2 tokens, without a finish_reason"),
        ((DONE,), "cut short: the stream ended after 1 tokens, without a finish_reason"),
        ((), "cut short: the stream ended after 1 tokens, without a finish_reason"),
    ],
)
def test_what_has_not_come_to_its_end_is_no_answer(end: tuple[Event, ...], fault: str) -> None:
    assert str(read(text("a"), *end).fault) == fault


@pytest.mark.parametrize(
    "end",
    [
        (text("b", "stop"), DONE),
        (text("", "length"), {"choices": [], "usage": usage(1)}, DONE),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage(1)},),
        (text("", "eos_token"), DONE),
        (text("b", ""), text("", "stop"), DONE),
    ],
)
def test_servers_end_a_whole_answer_in_their_own_ways(end: tuple[Event, ...]) -> None:
    assert read(text("a"), *end).fault is None
