"""The short way of a stream's events: the same events in the same order, whoever takes them and however fast."""

import json
import socket
from collections.abc import Iterator
from itertools import cycle

import pytest

from libra.server.choice import Piece
from libra.server.outlet import Outlet
from tests.libra.server.running import BASE, Running

ASKED = {"prompt": [5, 9, 300, 41], "max_tokens": 24, "ignore_eos": True, "stream": True}


def told(served: Running, **asked: object) -> list[object]:
    """The choices of a stream, one list for each event."""
    return [event["choices"] for event in served.complete(**{**ASKED, **asked}).events]


def test_events_written_the_short_way_are_those_written_in_full(served: Running) -> None:
    in_full = told(served, return_token_ids=True)
    for choices in in_full:
        for choice in choices:  # type: ignore[attr-defined]
            del choice["token_ids"]
    assert told(served) == in_full
    assert len(in_full) == 24


def test_an_outlet_that_refuses_now_and_then_changes_no_order(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, write = told(served, n=2, temperature=1, seed=3), Outlet.__call__
    answers: Iterator[bool] = cycle([True, False, False, True, False])
    taken: list[bool] = []

    def hesitate(outlet: Outlet, piece: Piece) -> bool:
        taken.append(next(answers) and write(outlet, piece))
        return taken[-1]

    monkeypatch.setattr(Outlet, "__call__", hesitate)
    refused = told(served, n=2, temperature=1, seed=3)
    assert set(taken) == {True, False}
    for index in (0, 1):
        of_answer = [[choice for (choice,) in events if choice["index"] == index] for events in (expected, refused)]  # type: ignore[misc, attr-defined]
        assert of_answer[0] == of_answer[1]
        assert len(of_answer[0]) == 24


@pytest.mark.parametrize("unsent_bytes", [-1, 1 << 16])
def test_a_client_that_lags_behind_is_waited_for(
    served: Running, monkeypatch: pytest.MonkeyPatch, unsent_bytes: int
) -> None:
    expected = told(served)
    monkeypatch.setattr("libra.server.outlet._MAX_UNSENT_BYTES", unsent_bytes)
    taken: list[bool] = []
    write = Outlet.__call__

    def note(outlet: Outlet, piece: Piece) -> bool:
        taken.append(write(outlet, piece))
        return taken[-1]

    monkeypatch.setattr(Outlet, "__call__", note)
    assert told(served) == expected
    assert set(taken) == {unsent_bytes > 0}


def test_http_1_0_gets_plain_events_until_the_connection_closes(served: Running) -> None:
    body = json.dumps({"model": BASE, "temperature": 0, **ASKED}).encode()
    head = f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((served.host, served.port), timeout=20) as connection:
        connection.sendall(head + body)
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    headers, _, events = received.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.0 200")
    lines = [line.removeprefix(b"data: ") for line in events.split(b"\n\n") if line]
    assert lines[-1] == b"[DONE]"
    assert [json.loads(line)["choices"] for line in lines[:-1]] == told(served)
