"""What the engine's side makes of what comes while it carries something out."""

import socket
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from libra.engine.sequence import SamplingParams, SequenceState
from libra.request import Request
from libra.server.engine_loop import EngineLoop, _Live
from libra.server.messages import Call, End, Frames, Submit, frame


@dataclass
class PlayedEngine:
    """An engine that notes what is asked of it."""

    done: list[str]
    heard: threading.Event
    clock: Any = field(init=False)

    def __post_init__(self) -> None:
        self.clock = SimpleNamespace(ring=self.heard.set)

    def submit(self, request: Request, _: SamplingParams) -> Any:
        self.done.append(f"submit {request.id}")
        return SimpleNamespace(state=SequenceState.WAITING)

    def abort(self, _: Any) -> None:
        self.done.append("abort")


@dataclass
class PlayedParts:
    engine: PlayedEngine
    client: socket.socket


class ReadingLoop(EngineLoop):
    def take_on(self, request_id: int, *tokens: int) -> None:
        """A request that has these tokens, none of which has been told."""
        self._live[request_id] = _Live(
            SimpleNamespace(  # type: ignore[arg-type]
                num_prompt_tokens=0,
                num_output_tokens=len(tokens),
                num_tokens=len(tokens),
                tokens=np.array(tokens),
                logprobs=[None] * len(tokens),
                is_stopped=False,
                state=SequenceState.RUNNING,
            )
        )

    def publish(self) -> None:
        self._publish()

    def start_reading(self) -> threading.Thread:
        thread = threading.Thread(target=self._read, daemon=True)
        thread.start()
        return thread


def hear_more(parts: Any, *commands: Submit | End | Call) -> None:
    """A call during which ``commands`` come."""
    parts.engine.heard.clear()
    parts.client.sendall(b"".join(map(frame, commands)))
    assert parts.engine.heard.wait(5.0)


def note(parts: Any) -> None:
    parts.engine.done.append("call")


@pytest.mark.parametrize(
    ("later", "done"),
    [
        (End(5, as_finished=False), ["submit 5", "abort"]),  # or it would run for nobody
        (Call(1, note, ()), ["submit 5", "call"]),  # which may be the removal of its adapter
    ],
)
def test_what_concerns_a_request_comes_after_it(later: End | Call, done: list[str]) -> None:
    client, ours = socket.socketpair()
    with ours, client:
        parts = PlayedParts(PlayedEngine([], threading.Event()), client)
        loop = ReadingLoop(parts, ours)  # type: ignore[arg-type]
        reader = loop.start_reading()
        request = Request(5, 0.0, None, 50, prompt_token_ids=(1, 2))
        client.sendall(frame(Call(0, hear_more, (Submit(request, SamplingParams()), later))))
        assert parts.engine.heard.wait(5.0)
        loop.obey()
        assert parts.engine.done == done
        client.close()
        reader.join()


def test_first_tokens_are_told_first() -> None:
    client, ours = socket.socketpair()
    with ours, client:
        loop = ReadingLoop(PlayedParts(PlayedEngine([], threading.Event()), client), ours)  # type: ignore[arg-type]
        loop.take_on(3, 10)
        loop.publish()
        loop.take_on(3, 10, 11)
        loop._live[3].num_told = 1
        loop.take_on(4, 20)
        loop.publish()
        earlier, news = Frames().feed(client.recv(1 << 16))
        assert [(one.request_id, one.tokens) for one in earlier] == [(3, [10])]
        assert [(one.request_id, one.tokens) for one in news] == [(4, [20]), (3, [11])]
