"""Events come out the same however the network cuts the stream."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.replay.faults import HttpFault
from bench.replay.sse import MAX_EVENT_BYTES, EventStream

STREAM = 'data: {"a":"é…"}\n\n: ping\n\ndata:two\r\ndata: lines\r\n\r\nevent: x\ndata: [DONE]\n\n'.encode()
EVENTS = ['{"a":"é…"}'.encode(), b"two\nlines", b"[DONE]"]


@settings(max_examples=60)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    stream, events = EventStream(), []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        events += stream.feed(STREAM[start:end])
    assert events == EVENTS
    assert stream.close() == []


def test_the_end_of_the_stream_ends_an_event() -> None:
    stream = EventStream()
    assert stream.feed(b"data: one\n\ndata: tw") == [b"one"]
    assert stream.close() == [b"tw"]
    assert stream.feed(b"data: three\n") == []
    assert stream.close() == [b"three"]
    assert stream.close() == []


@pytest.mark.parametrize("size", [1, 5, 100])
def test_the_data_of_an_error_is_kept_apart(size: int) -> None:
    stream, data = EventStream(), b"data: one\n\nevent: error\ndata: broken\n\nevent:token\ndata: two\n\n"
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert [event for piece in pieces for event in stream.feed(piece)] == [b"one", b"two"]
    assert stream.error == b"broken"
    assert stream.is_between_events


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(HttpFault, match="longer than 16 MiB"):
        EventStream().feed(b"x" * (MAX_EVENT_BYTES + 1))


@pytest.mark.parametrize(
    ("pieces", "events"),
    [
        ([b"data: a\n\n"], [b"a"]),
        ([b"data: a\nd", b"ata: b\n\n"], [b"a\nb"]),
        ([b"data: a\r\n\n"], [b"a"]),
        ([b"data: a\n\ndata: b\n\n"], [b"a", b"b"]),
        ([b"data: a\n", b"data: b\n\n"], [b"a\nb"]),
        ([b"\n", b"data: \n\n"], [b""]),
    ],
)
def test_pieces_that_are_almost_one_event(pieces: list[bytes], events: list[bytes]) -> None:
    stream = EventStream()
    assert [event for piece in pieces for event in stream.feed(piece)] == events
