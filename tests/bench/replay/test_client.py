"""One request against a server that behaves, and against one that does not."""

import asyncio
import gc
import json
import shutil
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from bench.replay.answer import Answer
from bench.replay.client import Client
from bench.replay.connections import Connections
from bench.replay.faults import FaultKind
from bench.replay.http import parse_url
from bench.replay.settings import CHAT, COMPLETIONS
from libra.errors import LibraError
from tests.bench.replay.stub_server import Behaviour, serving

BODY = json.dumps({"model": "stub", "prompt": [1, 2, 3], "max_tokens": 4}).encode()
MESSAGES = json.dumps({"model": "stub", "messages": [{"role": "user", "content": "a b"}], "max_tokens": 4}).encode()


def post(behaviour: Behaviour, body: bytes = BODY, endpoint: str = COMPLETIONS, timeout_s: float = 5.0) -> Answer:
    async def run() -> Answer:
        async with serving(behaviour) as stub:
            client = Client(parse_url(stub.url), endpoint, {}, timeout_s)
            try:
                return await client.post(body, "r1", keep=True)
            finally:
                client.close()

    return asyncio.run(run())


def test_an_answer_holds_times_counts_and_text() -> None:
    start_s = time.monotonic()
    answer = post(Behaviour(ttft_s=0.05, tpot_s=0.02, cached_tokens=2, token_ids=True))
    assert answer.fault is None
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (3, 4, 2)
    assert (answer.streamed_tokens, answer.token_ids, answer.text) == (4, (0, 1, 2, 3), " word" * 4)
    assert answer.finish_reason == "length"
    times = list(answer.token_times)
    assert start_s + 0.05 <= times[0]
    assert times == sorted(times)
    assert times[-1] - times[0] >= 0.05


def test_chat_counts_no_token_for_the_role() -> None:
    answer = post(Behaviour(ttft_s=0.05), MESSAGES, CHAT)
    assert answer.fault is None
    assert answer.streamed_tokens == len(answer.token_times) == 4
    assert answer.token_times[0] - answer.sent_s >= 0.05
    assert answer.text == " word" * 4


@pytest.mark.parametrize("size", [1, 3, 7])
def test_split_frames_and_characters_change_nothing(size: int) -> None:
    answer = post(Behaviour(split_bytes=size, text=" é…🦙"))
    assert answer.fault is None
    assert answer.text == " é…🦙" * 4
    assert answer.completion_tokens == answer.streamed_tokens == 4


def test_an_empty_piece_is_a_token_whose_character_is_not_whole_yet() -> None:
    answer = post(Behaviour(text=""))
    assert answer.fault is None
    assert answer.streamed_tokens == 3  # the last piece carries the end of the answer and no text


def test_a_missing_usage_leaves_the_counts_to_the_client() -> None:
    answer = post(Behaviour(usage=False))
    assert answer.fault is None
    assert answer.completion_tokens is None
    assert answer.output_tokens == 4


@pytest.mark.parametrize(
    ("fault", "label", "detail"),
    [
        ("404", "http 404", "told to answer 404"),
        ("500", "http 500", "told to answer 500"),
        ("reset", "reset", ""),
        ("cut", "cut short", "after 1 tokens"),
        ("error", "error in stream", "out of blocks"),
        ("junk", "malformed", "not JSON"),
        ("plain", "not streamed", "not a stream"),
    ],
)
def test_every_failure_has_its_kind(fault: str, label: str, detail: str) -> None:
    answer = post(Behaviour(script=[fault]))
    assert answer.fault is not None
    assert answer.fault.label == label
    assert detail in answer.fault.detail


def test_a_stall_ends_at_the_timeout_with_the_tokens_there_are() -> None:
    answer = post(Behaviour(script=["stall"]), timeout_s=3.0)
    assert answer.fault is not None
    assert answer.fault.kind is FaultKind.TIMEOUT
    assert answer.streamed_tokens == 1


def test_a_busy_server_says_when_to_come_back() -> None:
    answer = post(Behaviour(script=["429"], retry_after="7"))
    assert answer.fault is not None
    assert answer.fault.is_refusal
    assert answer.fault.is_transient
    assert answer.fault.retry_after_s == 7.0
    dated = post(Behaviour(script=["429"], retry_after="Wed, 21 Oct 2015 07:28:00 GMT"))
    assert dated.fault is not None
    assert dated.fault.retry_after_s == 0.0


def test_no_server_is_a_failure_and_no_exception() -> None:
    async def run() -> Answer:
        return await Client(parse_url("http://127.0.0.1:9"), COMPLETIONS, {}, 2.0).post(BODY, "r1")

    answer = asyncio.run(run())
    assert answer.fault is not None
    assert answer.fault.kind is FaultKind.CONNECT


def test_connections_are_used_again_and_lost_ones_replaced() -> None:
    async def run() -> tuple[int, list[Answer], int]:
        async with serving(Behaviour(script=["ok", "ok", "reset"])) as stub:
            client = Client(parse_url(stub.url), COMPLETIONS, {"X-Test": "1"}, 5.0)
            answers = [await client.post(BODY, f"r{number}") for number in range(3)]
            client.close()
            assert stub.headers[0]["X-Test"] == "1"
            return len(stub.bodies), answers, client.num_reconnects

    num_bodies, answers, num_reconnects = asyncio.run(run())
    assert [answer.fault for answer in answers] == [None, None, None]
    # The third met a reset before its first byte on a used connection, and went out again on a new one.
    assert (num_bodies, num_reconnects) == (4, 1)


@pytest.mark.parametrize("num_connections", [0, 1, 40])
def test_a_server_that_was_reached_has_connections_open(num_connections: int) -> None:
    wanted = max(num_connections, 1)

    async def run() -> tuple[int, list[Answer]]:
        opened = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal opened
            opened += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            client = Client(parse_url(f"localhost:{server.sockets[0].getsockname()[1]}"), COMPLETIONS, {}, 5.0)
            await client.reach(num_connections, time.monotonic() + 5.0)
            while opened < wanted:  # the server's side of the last may come later
                await asyncio.sleep(0.001)
            answers = await asyncio.gather(*(client.post(BODY, f"r{number}") for number in range(wanted)))
            client.close()
            return opened, answers

    opened, answers = asyncio.run(run())
    assert opened == wanted
    assert [answer.fault and answer.fault.status for answer in answers] == [503] * wanted


@pytest.mark.parametrize("lead_s", [5.0, -1.0])
def test_a_server_that_is_not_there_is_left_to_the_requests(lead_s: float) -> None:
    async def reach_and_post() -> Answer:
        client = Client(parse_url("http://127.0.0.1:9"), COMPLETIONS, {}, 2.0)
        await client.reach(3, time.monotonic() + lead_s)
        return await client.post(BODY, "r1")

    start_s = time.monotonic()
    fault = asyncio.run(reach_and_post()).fault
    assert fault is not None
    assert fault.kind is FaultKind.CONNECT
    assert time.monotonic() - start_s < 4.5  # the time there was to reach it was longer


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_: Connections) -> None:
        await asyncio.sleep(60.0)

    monkeypatch.setattr(Connections, "open", hang)
    start_s = time.monotonic()
    asyncio.run(Client(parse_url("http://127.0.0.1:9"), COMPLETIONS, {}, 60.0).reach(3, start_s + 0.1))
    assert 0.1 <= time.monotonic() - start_s < 10.0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_an_encrypted_stream_is_read_like_a_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    pieces = [b'data: {"choices":[{"text":"t%d"}]}\n\n' % number for number in range(9)]
    pieces += [b'data: {"choices":[{"text":"","finish_reason":"length"}]}\n\n', b"data: [DONE]\n\n", b""]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()

    async def run() -> list[Answer]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
        async with server:
            address = parse_url(f"https://localhost:{server.sockets[0].getsockname()[1]}")
            trusting = Client(address, COMPLETIONS, {}, 5.0)
            answers = [await trusting.post(BODY, "r1", keep=True)]
            trusting.close()
            monkeypatch.delenv("SSL_CERT_FILE")
            answers.append(await Client(address, COMPLETIONS, {}, 5.0).post(BODY, "r2"))
            return answers

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    answer, refused = asyncio.run(run())
    assert answer.fault is None
    assert (answer.text, answer.streamed_tokens) == ("".join(f"t{number}" for number in range(9)), 9)
    assert refused.fault is not None
    assert refused.fault.kind is FaultKind.CONNECT


def test_a_run_leaves_no_cycles_of_its_own() -> None:
    """A sender runs without the garbage collector."""

    async def run() -> None:
        async with serving(Behaviour(script=["ok", "429", "junk", "cut", "stall"])) as stub:
            client = Client(parse_url(stub.url), COMPLETIONS, {}, 0.2)
            for number in range(7):
                await client.post(BODY, f"r{number}")
            client.close()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        ours = [item for item in gc.garbage if type(item).__module__.startswith("bench.replay")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert ours == []


def test_raw_answers_a_proxy_might_give() -> None:
    event = b'data: {"choices":[{"text":"a","finish_reason":"stop"}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    answers = {
        "until closed": head + b"\r\n" + event + b"data: [DONE]\n\n",
        "no DONE": head + b"Content-Length: %d\r\n\r\n" % len(event) + event,
        "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"\r\n" + event,
    }
    assert {name: _raw(data).fault for name, data in answers.items()} == dict.fromkeys(answers)
    broken = {
        "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
        "no end of head": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
    }
    for data in broken.values():
        fault = _raw(data).fault
        assert fault is not None
        assert fault.kind is FaultKind.MALFORMED
    html = _raw(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 13\r\n\r\n<h1>busy</h1>").fault
    assert str(html) == "http 502: <h1>busy</h1>"


def _raw(data: bytes) -> Answer:
    """The answer to one request from a server that sends ``data`` and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()

    async def run() -> Answer:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return await Client(parse_url(f"127.0.0.1:{port}"), COMPLETIONS, {}, 5.0).post(BODY, "r1")

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("http://a.b/v1/", "http://a.b"),
        ("https://a.b/api/v1", "https://a.b/api"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_addresses(url: str, text: str) -> None:
    assert str(parse_url(url)) == text


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:port", "http://a:99999"])
def test_wrong_addresses_are_refused(url: str) -> None:
    with pytest.raises(LibraError, match=r"write http://host:port"):
        parse_url(url)
