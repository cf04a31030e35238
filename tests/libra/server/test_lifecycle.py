"""Clients that go away, a server that is told to stop, an engine that dies."""

import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from libra.cache.pool import RUNNING
from libra.engine.engine import Engine
from libra.server.answers import AnswerShape, CompletionShape
from libra.server.outlet import Outlet
from tests.libra.server.running import BASE, Running, engine_settings, running, settings, slow_down, slowed
from tests.tiny_models import TinyModel

LONG = {"model": BASE, "prompt": [1, 2, 3], "max_tokens": 400, "ignore_eos": True, "temperature": 0}


def until(condition: Any, seconds: float = 10.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.002)


def test_a_client_that_goes_away_frees_its_blocks_within_a_step(served: Running) -> None:
    with slowed(served):
        for stream in (True, False):
            connection = served.open("POST", "/v1/completions", {**LONG, "stream": stream})
            until(lambda: served.in_engine(lambda engine: len(engine.scheduler.running)) == 1)
            if stream:
                connection.getresponse().read(10)
            steps = served.in_engine(lambda engine: engine.num_steps)
            connection.close()
            until(lambda: not served.in_engine(lambda engine: engine.scheduler.has_work))
            assert served.in_engine(lambda engine: engine.num_steps) - steps < 150, "it was computed to the end"
            served.check_idle()


def test_a_storm_of_disconnects_leaves_nothing_behind(served: Running, caplog: pytest.LogCaptureFixture) -> None:
    models = [BASE, *(f"adapter-{number:02d}" for number in range(5))]

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        body = {
            **LONG,
            "prompt": [number % 7 + 1] * (number % 50 + 1),
            "model": models[number % 6],
            "stream": number % 3 > 0,
        }
        if number % 5 == 0:
            body["max_tokens"] = 5
        try:
            async with asyncio.timeout(0.01 * (number % 20) if number % 5 else 20.0):
                async with session.post(f"{served.url}/v1/completions", json=body) as response:
                    await response.read()
                    assert response.status == 200
        except TimeoutError:
            assert number % 5, "a request that was let be did not come to its end"

    async def storm() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(one(session, number) for number in range(80)))

    asyncio.run(storm())
    until(lambda: not served.server.engine.streams)
    served.check_idle()
    assert served.complete(prompt="still there").status == 200
    assert not caplog.records, "clients may go away without a word in the log"


def test_a_draining_server_finishes_what_is_open_and_takes_nothing_new(tiny_model: TinyModel) -> None:
    with running(settings(), engine_settings(tiny_model)) as server:
        with slowed(server):
            connections = [server.open("POST", "/v1/completions", {**LONG, "max_tokens": 200}) for _ in range(4)]
            until(lambda: len(server.server.engine.streams) == 4)
            drained = server.drain()
            until(lambda: server.server.draining)
        refused = server.complete(prompt="late")
        assert (refused.status, refused.error["code"]) == (503, "shutting_down")
        assert "Retry-After" in refused.headers
        assert server.get("/health").status == 503
        for connection in connections:
            response = connection.getresponse()
            assert response.status == 200
            assert b'"completion_tokens": 200' in response.read()
            connection.close()
        assert drained.result(timeout=10) is True
        server.check_idle()


def test_draining_does_not_wait_for_ever(tiny_model: TinyModel) -> None:
    with running(settings(drain_timeout_s=0.05), engine_settings(tiny_model)) as server:
        server.in_engine(slow_down)
        connection = server.open("POST", "/v1/completions", {**LONG, "stream": True})
        response = connection.getresponse()
        drained = server.drain()
        assert b'"code":"shutting_down"' in response.read()
        assert drained.result(timeout=10) is False
        connection.close()
        server.check_idle()


class Lag:
    """Clients that do not read the ends of their answers until ``over``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.over = threading.Event()
        write_eof = web.StreamResponse.write_eof

        async def lag(response: web.StreamResponse, data: bytes = b"") -> None:
            while not self.over.is_set():
                await asyncio.sleep(0.005)
            await write_eof(response, data)

        monkeypatch.setattr(web.StreamResponse, "write_eof", lag)


@pytest.mark.parametrize("is_written", [False, True])
def test_draining_waits_for_clients_to_read(
    is_written: bool, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``is_written``: the answer had ended before, but for its client."""
    make = Outlet.__init__

    def make_narrow(outlet: Outlet, request: web.Request, shape: AnswerShape) -> None:
        """What is not read stays in the server, not in the kernel."""
        assert request.transport is not None
        with socket.socket(fileno=os.dup(request.transport.get_extra_info("socket").fileno())) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        make(outlet, request, shape)

    monkeypatch.setattr(Outlet, "__init__", make_narrow)
    with running(settings(), engine_settings(tiny_model)) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((server.host, server.port))
        connection.sendall(as_http({**LONG, "max_tokens": 200, "stream": True}))
        until(lambda: server.server.engine.streams)
        if not is_written:
            drained = server.drain()
        until(lambda: not server.server.engine.streams)
        time.sleep(0.1)
        if is_written:
            drained = server.drain()
            time.sleep(0.1)
        assert not drained.done()
        answer = b""
        while b"data: [DONE]\n\n" not in answer:
            answer += connection.recv(1 << 16)
        assert drained.result(timeout=10) is True


def test_draining_says_when_a_client_had_not_read_all(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lag = Lag(monkeypatch)
    with running(settings(drain_timeout_s=0.1), engine_settings(tiny_model)) as server:
        connection = server.open("POST", "/v1/completions", {**LONG, "max_tokens": 5, "stream": True})
        connection.getresponse()
        until(lambda: not server.server.engine.streams)
        drained = server.drain()
        assert drained.result(timeout=10) is False
        lag.over.set()
        connection.close()


def as_http(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    return head % len(data) + data


def received(server: Running, body: dict[str, Any]) -> bytes:
    """All that comes on a connection until it is closed."""
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        connection.sendall(as_http(body))
        answer = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                answer += part
    return answer


def test_a_stream_that_fails_is_cut_off(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A second status line in a body that is open would be a part of it."""

    def fail(_: CompletionShape) -> bytes:
        raise ArithmeticError("a fault of the server's")

    with running(settings(), engine_settings(tiny_model)) as server:
        monkeypatch.setattr(CompletionShape, "last_chunks", fail)
        check_cut_off(received(server, {**LONG, "max_tokens": 5, "stream": True}))
        assert "a fault of the server's" in caplog.text
        server.check_idle()


def test_a_stream_that_nobody_reads_is_cut_off(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(settings(request_timeout_s=3.0), engine_settings(tiny_model)) as server:
        Lag(monkeypatch)
        monkeypatch.setattr("libra.server.app._READING_GRACE_S", 0.1)
        check_cut_off(received(server, {**LONG, "max_tokens": 5, "stream": True}))
        server.check_idle()


def check_cut_off(answer: bytes) -> None:
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1
    assert not answer.endswith(b"0\r\n\r\n"), "the body looks whole"


def test_a_slow_load_is_looked_at_ever_more_rarely(tiny_model: TinyModel) -> None:
    with running(settings(), engine_settings(tiny_model, link_gbps=1e-7)) as server:
        connection = server.open("POST", "/v1/completions", {**LONG, "model": "adapter-00"})
        until(lambda: server.in_engine(lambda engine: len(engine.scheduler.loading)) == 1)
        looks: list[float] = []

        def watch(engine: Engine) -> None:
            step = engine.step

            def counted(next_arrival_s: float = math.inf) -> bool:
                looks.append(engine.clock.now())
                return step(next_arrival_s)

            engine.step = counted  # type: ignore[method-assign]

        time.sleep(0.5)
        server.in_engine(watch)
        until(lambda: len(looks) > 20)
        assert looks[20] - looks[10] > 10 * 0.005, "at half a millisecond it would be a tenth of that"
        connection.close()


def test_a_drained_server_proves_that_its_cache_adds_up(
    tiny_model: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    with running(settings(), engine_settings(tiny_model)) as server:
        assert server.complete().status == 200
        # A block that nobody gives back.
        lost = server.in_engine(lambda engine: engine.manager.memory.hbm.kv_region.allocate(1, RUNNING))
        drained = server.drain()
        assert drained.result(timeout=10) is False
        assert "does not add up" in caplog.text
        server.in_engine(lambda engine: engine.manager.memory.hbm.kv_region.release(lost))


def test_when_the_engine_dies_everybody_hears_of_it(tiny_model: TinyModel, caplog: Any) -> None:
    with running(settings(), engine_settings(tiny_model)) as server:
        server.in_engine(slow_down)
        streaming = server.open("POST", "/v1/completions", {**LONG, "stream": True})
        response = streaming.getresponse()
        waiting = server.open("POST", "/v1/completions", LONG)
        until(lambda: len(server.server.engine.streams) == 2)

        def break_it(engine: Engine) -> None:
            def execute(*_: Any) -> Any:
                raise RuntimeError("the memory has rotted")

            engine.executor.execute = execute  # type: ignore[method-assign]

        server.in_engine(break_it)
        assert b'"code":"engine_dead"' in response.read()
        whole = waiting.getresponse()
        assert whole.status == 503
        assert b"the memory has rotted" in whole.read()
        for reply in (
            server.get("/health"),
            server.complete(prompt="a"),
            server.post("/v1/unload_lora_adapter", lora_name="adapter-00"),
        ):
            assert (reply.status, reply.error["code"]) == (503, "engine_dead")
        assert server.get("/metrics").status == 200
        assert server.get("/stats").json["failure"] is not None
        for connection in (streaming, waiting):
            connection.close()
    assert "the memory has rotted" in caplog.text


def test_many_streams_at_a_time_get_their_own_tokens(served: Running) -> None:
    models = [BASE, *(f"adapter-{number:02d}" for number in range(5))]
    bodies = [
        {"model": model, "prompt": [n + 1] * 20, "max_tokens": 10, "ignore_eos": True}
        for n in range(4)
        for model in models
    ]
    alone = [served.complete(**body).text for body in bodies]

    async def together() -> list[str]:
        async with aiohttp.ClientSession() as session:

            async def one(body: dict[str, Any]) -> str:
                async with session.post(f"{served.url}/v1/completions", json={**body, "temperature": 0}) as response:
                    text: str = (await response.json())["choices"][0]["text"]
                    return text

            return await asyncio.gather(*(one(body) for body in bodies))

    assert asyncio.run(together()) == alone


def test_the_command_serves_until_a_signal_and_then_drains(tiny_model: TinyModel, tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    names = [f"{name}={path}" for name, path in list(tiny_model.adapters.items())[:2]]
    command = [
        sys.executable, "-m", "bench.cli", "serve", str(tiny_model.directory), "--lora-modules", *names, "--port", "0",
        "--hbm-cache-gib", "0.01", "--host-cache-gib", "0.02", "--request-log", str(log),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        watchdog = threading.Timer(180, process.kill)
        watchdog.start()
        assert process.stderr is not None
        first = process.stderr.readline()
        assert "serving llama with 2 adapters on http://127.0.0.1:" in first
        port = int(first.split("127.0.0.1:")[1].split()[0])
        client = Running(None, None, "127.0.0.1", port, None, None)  # type: ignore[arg-type]
        body = {**LONG, "model": "adapter-01", "stream": True}
        connections = [client.open("POST", "/v1/completions", body) for _ in range(8)]
        responses = [connection.getresponse() for connection in connections]
        process.send_signal(signal.SIGTERM)
        # Some may have ended by then where this process was held up.
        assert re.fullmatch(r"draining [1-8] requests\n", process.stderr.readline())
        late = client.complete(model="llama")
        assert (late.status, late.error["code"]) == (503, "shutting_down")
        for connection, response in zip(connections, responses, strict=True):
            answer = response.read()
            assert answer.count(b'"text"') == 400, "the signal cut an answer short"
            assert answer.endswith(b"data: [DONE]\n\n")
            connection.close()
        assert process.stderr.read() == "stopped\n"
        assert process.wait() == 0
        watchdog.cancel()
    assert log.read_text().count("\n") == 8
