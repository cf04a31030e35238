import asyncio
import json

import pytest

from bench.replay.answer import AnswerReader
from bench.replay.http import Head
from bench.replay.token_event import TokenEvent


def event(text: str, **more: object) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": None}
    return json.dumps({"id": "a", "choices": [choice], **more}, separators=(",", ":")).encode()


def learnt(lead: bytes = b"data: ", ending: bytes = b"\n\n") -> TokenEvent:
    shape = TokenEvent()
    shape.learn(event(" word"), " word", lead + event(" word") + ending)
    return shape


def test_half_a_surrogate_pair_is_no_example() -> None:
    shape = TokenEvent()
    shape.learn(event("\ud83d"), "\ud83d", b"data: " + event("\ud83d") + b"\n\n")
    assert shape.text(event(" b")) is None


def test_events_that_differ_in_their_text_have_one_shape() -> None:
    assert TokenEvent().texts(b"data: " + event(" word") + b"\n\n") is None, "nothing is learnt yet"
    for lead, ending in ((b"data: ", b"\n\n"), (b"data:", b"\r\n\r\n")):
        one, other = (lead + event(text) + ending for text in (" other words", " b"))
        assert learnt(lead, ending).texts(one) == [b" other words"]
        assert learnt(lead, ending).texts(one + other + one) == [b" other words", b" b", b" other words"]
        assert learnt().texts(one) == ([b" other words"] if lead == b"data: " else None)


def test_an_event_among_others_teaches_its_shape() -> None:
    shape = TokenEvent()
    piece = b": ping\n\ndata: " + event(" word") + b"\n\ndata: [DONE]\n\n"
    shape.learn(event(" word"), " word", piece)
    assert shape.texts(b"data: " + event(" b") + b"\n\n") == [b" b"]
    assert shape.text(event(" b")) == b" b"


@pytest.mark.parametrize("cut", [1, 8, 30, -1, -2])
def test_a_piece_that_ends_within_an_event_is_none_of_its_shape(cut: int) -> None:
    piece = b"data: " + event(" b") + b"\n\n"
    assert learnt().texts(piece[:cut]) is None
    assert learnt().texts(piece + piece[:cut]) is None
    shape = TokenEvent()
    shape.learn(event(" b"), " b", piece[:cut])
    assert shape.texts(piece) is None
    assert shape.text(event(" c")) == b" c"


@pytest.mark.parametrize(
    "other",
    [
        event(""), event('say "x"'), event("line\n"), event("caf\u00e9"), event("x", usage={"completion_tokens": 1}),
        event("x").replace(b"null", b'"stop"'), b"[DONE]", event("x")[:-1], b"",
        event("x").replace(b'"text":"x"', b'"text":"x","token_ids":[1,2],"stop":"x"'),
    ],
)  # fmt: skip
def test_everything_else_is_left_to_the_parser(other: bytes) -> None:
    good, odd = (b"data: " + data + b"\n\n" for data in (event(" b"), other))
    assert learnt().text(other) is None
    for piece in (odd, good + odd, odd + good, good + odd + good):
        assert learnt().texts(piece) is None


def test_an_event_whose_text_is_elsewhere_teaches_nothing() -> None:
    shape = TokenEvent()
    for misleading in (b'{"text":"a","choices":[{"text":"b"}]}', b'{"choices":[{"text":"\\u0062"}]}'):
        shape.learn(misleading, "b", b"data: " + misleading + b"\n\n")
        assert shape.texts(b"data: " + misleading.replace(b"b", b"c") + b"\n\n") is None


@pytest.mark.parametrize("size", [1, 7, 60, 90, 200, 10_000])
def test_a_reader_counts_and_keeps_the_same_with_and_without_it(size: int) -> None:
    texts = [" a", " b", "", "caf\u00e9", ' "', " c", "\\", " d", " e", " f"]
    stream = b"".join(b"data: " + event(text) + b"\n\n" for text in texts)
    ended = {"index": 0, "text": "", "finish_reason": "length"}
    end = json.dumps({"choices": [ended], "usage": {"prompt_tokens": 3, "completion_tokens": 10}}).encode()

    async def read() -> AnswerReader:
        reader = AnswerReader(0.0, keep=True)
        reader.on_head(Head(200, {"content-type": "text/event-stream"}))
        for place in range(0, len(stream), size):
            reader.on_body(stream[place : place + size], float(place))
        reader.on_body(b"data: " + end + b"\n\ndata: [DONE]\n\n", 1e6)
        reader.on_end(None)
        return reader

    answer = asyncio.run(read()).answer
    assert (answer.text, answer.streamed_tokens, answer.completion_tokens) == ("".join(texts), len(texts), 10)
    assert list(answer.token_times) == sorted(answer.token_times)
    assert len(answer.token_times) == len(texts)
    assert answer.fault is None
