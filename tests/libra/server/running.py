"""A server on a free port, in a thread with an event loop of its own, and a plain client."""

import asyncio
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from typing import Any, TypeVar

from aiohttp import web

from baselines import find_policy
from libra.engine.config import EngineConfig
from libra.engine.engine import Engine
from libra.engine.executor import StepBatch, StepResult
from libra.server.build import build_front, make_engine, make_server
from libra.server.connections import has_unsent
from libra.server.engine_client import connect
from libra.server.engine_loop import EngineLoop
from libra.server.serve import new_event_loop, start_http
from libra.server.server import Server
from libra.server.settings import EngineSettings, ServerSettings
from libra.spec import GIB
from tests.tiny_models import TinyModel

T = TypeVar("T")
BLOCK_TOKENS = 16
BASE = "tiny-base"
# Blocks of 12 KiB: room for every adapter and several requests, but not for all that the tests leave behind.
HBM_BLOCKS, HOST_BLOCKS = 160, 400


@dataclass
class Reply:
    """One response. ``events`` are the objects of a stream, without its [DONE]."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        assert self.body.endswith(b"data: [DONE]\n\n"), self.body[-200:]
        lines = [line for line in self.body.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    @property
    def text(self) -> str:
        """The text of the first choice, streamed or not."""
        if self.headers["Content-Type"].startswith("text/event-stream"):
            choices = [choice for event in self.events for choice in event["choices"] if choice["index"] == 0]
            return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)
        choice = self.json["choices"][0]
        text: str = choice["text"] if "text" in choice else choice["message"]["content"]
        return text


class OpenLoop(EngineLoop):
    """Also does what tests ask of the engine, in its own thread between two steps."""

    actions: queue.SimpleQueue[Callable[[], None]]

    def obey(self) -> None:
        super().obey()
        while not self.actions.empty():
            self.actions.get()()


@dataclass
class Running:
    """A server and where it is. Its engine runs in a thread, and hears of everything through a socket all the same."""

    server: Server
    engine_loop: OpenLoop
    host: str
    port: int
    loop: asyncio.AbstractEventLoop
    http: web.Server
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def open(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> HTTPConnection:
        """A connection with a request sent; the caller reads, and closes it."""
        connection = HTTPConnection(self.host, self.port, timeout=20)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, {**self.headers, **(headers or {})})
        return connection

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        connection = self.open(method, path, body, headers)
        try:
            response: HTTPResponse = connection.getresponse()
            return Reply(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def post(self, path: str, **body: Any) -> Reply:
        return self.ask("POST", path, body)

    def complete(self, **body: Any) -> Reply:
        """A greedy completion of the base model unless ``body`` says otherwise."""
        return self.post(
            "/v1/completions", **{"model": BASE, "prompt": "abc", "temperature": 0, "max_tokens": 6, **body}
        )

    def chat(self, *messages: str, **body: Any) -> Reply:
        said = [{"role": "user", "content": text} for text in messages]
        return self.post(
            "/v1/chat/completions", **{"model": BASE, "temperature": 0, "max_tokens": 6, "messages": said, **body}
        )

    def in_engine(self, action: Callable[[Engine], T]) -> T:
        """What ``action`` returns, run in the engine's thread between two steps."""
        done: Future[T] = Future()

        def act() -> None:
            try:
                done.set_result(action(self.engine_loop.parts.engine))
            except BaseException as error:  # noqa: BLE001 - the test's own
                done.set_exception(error)

        self.engine_loop.actions.put(act)
        self.engine_loop.parts.engine.clock.ring()
        return done.result(timeout=20)

    def drain(self) -> "Future[bool]":
        """Whether draining, which begins now, goes well."""
        draining = self.server.drain(partial(has_unsent, self.http))
        return asyncio.run_coroutine_threadsafe(draining, self.loop)

    def check_idle(self) -> None:
        """Proves that nobody holds anything."""

        def check(engine: Engine) -> None:
            assert not engine.scheduler.has_work
            assert not engine.manager.holdings
            engine.manager.check()

        # What ends a request goes another way than its answer, and may be a few steps longer on it.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), self.loop).result(timeout=20)
        last_step = self.in_engine(lambda engine: engine.num_steps) + 100
        deadline_s = time.monotonic() + 5.0
        while self.in_engine(lambda engine: engine.scheduler.has_work and engine.num_steps < last_step):
            assert time.monotonic() < deadline_s, "the engine waits for something"
            time.sleep(0.001)
        self.in_engine(check)
        # The last news of an ended request are on their way when the engine answers.
        deadline_s = time.monotonic() + 5.0
        while self.server.engine.streams and time.monotonic() < deadline_s:
            time.sleep(0.001)
        assert not self.server.engine.streams


def slow_down(engine: Engine, by_s: float = 0.03) -> Callable[..., StepResult]:
    """Every step takes so much more, on any machine; returns what the executor did before."""
    compute = engine.executor.execute

    def execute(batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        time.sleep(by_s)
        return compute(batch, max_steps, until_s)

    engine.executor.execute = execute  # type: ignore[method-assign]
    return compute


@contextmanager
def slowed(server: Running) -> Iterator[None]:
    """Long answers take many seconds: none ends before the test has got to its next line."""
    compute = server.in_engine(slow_down)

    def restore(engine: Engine) -> None:
        engine.executor.execute = compute  # type: ignore[method-assign]

    try:
        yield
    finally:
        server.in_engine(restore)


def engine_settings(tiny: TinyModel, **changes: Any) -> EngineSettings:
    block_gib = tiny.spec.block_bytes(BLOCK_TOKENS) / GIB
    config = EngineConfig(block_tokens=BLOCK_TOKENS, max_num_batched_tokens=128, timeline_s=None)
    defaults = {
        "policy": partial(find_policy, "fastlibra"),
        "model": tiny.directory,
        "adapters": tiny.adapters,
        "max_lora_rank": 8,
        "hbm_cache_gib": HBM_BLOCKS * block_gib,
        "host_cache_gib": HOST_BLOCKS * block_gib,
        "config": config,
    }
    return EngineSettings(**{**defaults, **changes})


@contextmanager
def running(settings: ServerSettings, wanted: EngineSettings) -> Iterator[Running]:
    """A server until the block ends."""
    front = build_front(settings, wanted)
    ours, theirs = socket.socketpair()
    engine_loop = OpenLoop(make_engine(front)(), theirs)
    engine_loop.actions = queue.SimpleQueue()
    engine_thread = threading.Thread(target=engine_loop.run, daemon=True)
    loop = new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    for one in (engine_thread, thread):
        one.start()

    async def start() -> tuple[Server, Any, str]:
        server = make_server(front, await connect(ours))
        return server, *(await start_http(server))

    server, runner, address = asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=30)
    host, port = address.removeprefix("http://").rsplit(":", 1)
    try:
        yield Running(server, engine_loop, host, int(port), loop, runner.server)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=30)
        loop.call_soon_threadsafe(server.close)
        engine_thread.join(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()
        theirs.close()


def settings(**changes: Any) -> ServerSettings:
    return ServerSettings(**{"model_name": BASE, "port": 0, "request_timeout_s": 20.0, **changes})
