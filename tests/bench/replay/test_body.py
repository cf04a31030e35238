"""Framing of HTTP bodies, in pieces of any size."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.replay.body import Body, ChunkedBody, SizedBody, UntilClosedBody
from bench.replay.faults import HttpFault

CHUNKS = [b"hello", b"x" * 300, b"\r\n", b"0\r\n\r\n"]
ENCODED = b"".join(b"%x;note=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in CHUNKS) + b"0\r\nTrailer: 1\r\n\r\n"


def read(body: Body, data: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cuts), len(data)]
    return b"".join(body.feed(data[start:end]) for start, end in pairwise(edges) if start < end)


@settings(max_examples=80)
@given(st.lists(st.integers(0, len(ENCODED)), max_size=20))
def test_chunks_come_back_whole(cuts: list[int]) -> None:
    body = ChunkedBody()
    assert read(body, ENCODED, cuts) == b"".join(CHUNKS)
    assert body.done


def test_a_token_a_chunk_takes_the_short_way() -> None:
    body = ChunkedBody()
    assert [body.feed(b"5\r\nhello\r\n"), body.feed(b"3\r\nyou\r\n"), body.feed(b"0\r\n\r\n")] == [
        b"hello",
        b"you",
        b"",
    ]
    assert body.done


@pytest.mark.parametrize("size", [1, 15, 16, 17, 255, 256, 4095, 4096])
def test_the_short_way_takes_whole_chunks_alone(size: int) -> None:
    data, chunk = b"x" * size, b"%x\r\n%s\r\n" % (size, b"x" * size)
    assert ChunkedBody().feed(chunk) == data
    assert ChunkedBody().feed(chunk + chunk) == data * 2
    cut = ChunkedBody()
    assert cut.feed(chunk[:-1]) + cut.feed(chunk[-1:] + chunk) == data * 2
    assert ChunkedBody().feed(b"%X;a=1\r\n%s\r\n" % (size, data)) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"9\r\n" + b"x" * 16 + b"\r\n", "longer than its size"),
        (b"d\r\n" + b"x" * 12 + b"\r\n\r\n", "longer than its size"),
        (b"zz\r\n", "chunk size"),
        (b"-5\r\nhello\r\n", "chunk size"),
        (b"3\r\nhello\r\n", "longer than its size"),
        (b"0\r\n\r\nHTTP/1.1", "after the last chunk"),
        (b"1" * 70_000, "without an end"),
    ],
)
def test_broken_chunks_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(HttpFault, match=message):
        ChunkedBody().feed(data)


def test_a_sized_body_ends_at_its_size() -> None:
    body = SizedBody(5)
    assert body.feed(b"hel") + body.feed(b"lo") == b"hello"
    assert body.done
    with pytest.raises(HttpFault, match="Content-Length"):
        SizedBody(1).feed(b"ab")


def test_a_body_may_end_with_the_connection() -> None:
    body = UntilClosedBody()
    assert body.feed(b"all") == b"all"
    assert not body.done
    assert body.end_of_input()
    assert body.done
    assert not body.reusable
    assert not ChunkedBody().end_of_input()
