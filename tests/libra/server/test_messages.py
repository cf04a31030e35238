"""Messages survive however a socket cuts them."""

import pytest

from libra.engine.sequence import TokenLogprobs
from libra.server.messages import Died, End, Frames, News, Reply, frame

MESSAGES = [
    End(7, as_finished=True),
    [News(1, [5, 6], [TokenLogprobs(-0.5, [(5, -0.5)])]), News(2, [], [], fault="x" * 70_000)],
    Reply(3, None, KeyError("who")),
    Died("rot"),
]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000, 1 << 20])
def test_messages_come_whole_and_in_order(size: int) -> None:
    frames, data = Frames(), b"".join(map(frame, MESSAGES))  # type: ignore[arg-type]
    got = [message for start in range(0, len(data), size) for message in frames.feed(data[start : start + size])]
    assert list(map(repr, got)) == list(map(repr, MESSAGES))
    assert frames.feed(b"") == []
