import asyncio
import json

import pytest

from bench.replay.answer import AnswerReader
from bench.replay.http import Head
from bench.replay.token_event import TokenEvent


def event(text: str, **more: object) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": None}
    return json.dumps({"id": "a", "choices": [choice], **more}, separators=(",", ":")).encode()


def test_events_that_differ_in_their_text_have_one_shape() -> None:
    shape = TokenEvent()
    assert shape.text_of(event(" word")) is None, "nothing is learnt yet"
    shape.learn(event(" word"), " word")
    assert shape.text_of(event(" other words")) == b" other words"


@pytest.mark.parametrize(
    "other",
    [
        event(""), event('say "x"'), event("line\n"), event("caf\u00e9"), event("x", usage={"completion_tokens": 1}),
        event("x").replace(b"null", b'"stop"'), b"[DONE]", event("x")[:-1], b"",
        event("x").replace(b'"text":"x"', b'"text":"x","token_ids":[1,2],"stop":"x"'),
    ],
)  # fmt: skip
def test_everything_else_is_left_to_the_parser(other: bytes) -> None:
    shape = TokenEvent()
    shape.learn(event(" word"), " word")
    assert shape.text_of(other) is None


def test_an_event_whose_text_is_elsewhere_teaches_nothing() -> None:
    shape = TokenEvent()
    for misleading in (b'{"text":"a","choices":[{"text":"b"}]}', b'{"choices":[{"text":"\\u0062"}]}'):
        shape.learn(misleading, "b")
        assert shape.text_of(misleading.replace(b"b", b"c")) is None


def test_a_reader_counts_and_keeps_the_same_with_and_without_it() -> None:
    texts = [" a", " b", "", "caf\u00e9", ' "', " c", "\\", " d"]
    stream = b"".join(b"data: " + event(text) + b"\n\n" for text in texts)
    end = json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 8}}).encode()

    async def read() -> AnswerReader:
        reader = AnswerReader(0.0, keep=True)
        reader.on_head(Head(200, {"content-type": "text/event-stream"}))
        for place in range(0, len(stream), 7):
            reader.on_body(stream[place : place + 7], float(place))
        reader.on_body(b"data: " + end + b"\n\ndata: [DONE]\n\n", 1e6)
        reader.on_end(None)
        return reader

    answer = asyncio.run(read()).answer
    assert (answer.text, answer.streamed_tokens, answer.completion_tokens) == ("".join(texts), len(texts), 8)
    assert list(answer.token_times) == sorted(answer.token_times)
    assert len(answer.token_times) == len(texts)
    assert answer.fault is None
