"""What is refused, how it is said, and that nothing a client sends is the server's own fault."""

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from http.client import HTTPResponse
from itertools import islice
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from libra.errors import nearest_name
from libra.server.errors import unknown_model
from tests.libra.server.running import BASE, Running, engine_settings, running, settings, slow_down, slowed
from tests.tiny_models import MAX_LENGTH, TinyModel

COMPLETION = {"model": BASE, "prompt": "a", "max_tokens": 2}
CHAT = {"model": BASE, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1e999}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 2.5}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"n": 1000}, "n"),
        ({"seed": 1 << 63}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": {}}, "stop"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [512], "min_tokens": 1}, "stop_token_ids"),
        ({"min_tokens": 3}, "min_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": 1, "echo": True}, "logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [512]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"user": 5}, "user"),
        ({"model": None}, "model"),
    ],
)
def test_a_bad_field_is_named(served: Running, changes: dict[str, Any], param: str) -> None:
    reply = served.ask("POST", "/v1/completions", {**COMPLETION, **changes})
    assert reply.status == 400
    assert reply.error["param"] == param
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "messages",
    [
        None, [], ["hi"], [{}], [{"role": "user", "content": 4}], [{"role": 1, "content": "a"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": ["a"]}], [{"role": "\ud800", "content": "a"}],
    ],
)  # fmt: skip
def test_messages_that_are_none_are_refused(served: Running, messages: Any) -> None:
    reply = served.ask("POST", "/v1/chat/completions", {**CHAT, "messages": messages})
    assert reply.status == 400
    assert str(reply.error["param"]).startswith("messages")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000])
def test_a_body_that_is_no_json_object_is_refused(served: Running, body: bytes) -> None:
    reply = served.ask("POST", "/v1/completions", body)
    assert reply.status == 400
    assert reply.error["code"] == "invalid_json"


def test_bounds_that_are_allowed_stop_nobody(served: Running) -> None:
    for extreme in ({"top_p": 1e-300}, {"temperature": 1e-300}, {"temperature": 100}, {"top_k": 1 << 30}, {"seed": -1}):
        assert served.ask("POST", "/v1/completions", {**COMPLETION, "temperature": 1.0, **extreme}).status == 200
    assert served.get("/health").status == 200


def spoken(server: Running, request: bytes) -> tuple[int, bytes]:
    """Status and body of what comes back when ``request`` is sent as it is and nothing after it."""
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        connection.sendall(request)
        response = HTTPResponse(connection)
        response.begin()
        return response.status, response.read()


PLAIN = json.dumps(COMPLETION).encode()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (b"Content-Length: 10000000000", b"", 413),
        (b"Content-Encoding: gzip\r\nContent-Length: 5", b"aaaaa", 400),
        (b"Content-Encoding: gzip", gzip.compress(b'{"a": "' + b"x" * 20_000_000 + b'"}', mtime=0), 413),
        (b"Content-Encoding: gzip", gzip.compress(PLAIN, mtime=0), 200),
        (b"Content-Type: text/plain", PLAIN, 200),
        (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(PLAIN), PLAIN), 200),
        (b"Transfer-Encoding: chunked", b"zz\r\n" + PLAIN, 400),
        (b"Content-Length: -5", b"", 400),
        (b"X-Request-ID: caf\xe9", PLAIN, 200),
        (b"A: " + b"b" * 20_000, PLAIN, 400),
    ],
)  # fmt: skip
def test_whatever_comes_over_the_wire_is_answered(
    served: Running, headers: bytes, body: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    if b"Content-Length" not in headers and b"chunked" not in headers:
        headers += b"\r\nContent-Length: %d" % len(body)
    request = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\n" + body
    found, answer = spoken(served, request)
    assert found == status, answer
    assert not caplog.records, "a client's bytes fill no log"
    assert served.get("/health").status == 200


def test_a_body_that_never_ends_is_given_up(tiny_model: TinyModel) -> None:
    with running(settings(request_timeout_s=0.3), engine_settings(tiny_model)) as server:
        request = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
        status, body = spoken(server, request)
        assert (status, json.loads(body)["error"]["code"]) == (408, "timeout")


def test_the_last_of_equal_keys_counts_and_names_may_be_long(served: Running) -> None:
    doubled = b'{"model": "%b", "prompt": "a", "max_tokens": 9, "max_tokens": 2, "ignore_eos": true}' % BASE.encode()
    assert served.ask("POST", "/v1/completions", doubled).json["usage"]["completion_tokens"] == 2
    reply = served.complete(model="x" * 100_000)
    assert reply.status == 404
    assert len(reply.body) < 500


def test_an_unknown_model_comes_with_the_nearest(served: Running) -> None:
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)):
        reply = served.ask("POST", path, {**body, "model": "adaptor-03"})
        assert reply.status == 404
        assert reply.error["code"] == "model_not_found"
        assert "Did you mean 'adapter-03'?" in reply.error["message"]
    assert served.get("/v1/models/adaptor-03").status == 404


def test_few_of_many_names_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def count(name: str, choices: Iterable[str]) -> str | None:
        chosen = list(choices)
        compared.append(len(chosen))
        return nearest_name(name, chosen)

    monkeypatch.setattr("libra.server.errors.nearest_name", count)
    known = [f"tenant-{number:04d}-sql" for number in range(1000)]
    for asked, meant in (("tenant-0412-sqk", "tenant-0412-sql"), ("Tenant-0007-sql", "tenant-0007-sql")):
        assert f"Did you mean {meant!r}?" in unknown_model(asked, known).message
    assert max(compared) < 50


def test_paths_and_methods_that_are_none_of_ours(served: Running) -> None:
    assert served.get("/v1/nothing").error["code"] == "not_found"
    wrong = served.get("/v1/completions")
    assert wrong.status == 405
    assert wrong.headers["Allow"] == "POST"
    assert (wrong.error["type"], wrong.error["code"]) == ("invalid_request_error", "method_not_allowed")
    assert served.ask("OPTIONS", "/v1/completions").status == 405
    assert served.ask("HEAD", "/v1/models").status == 200
    assert served.post("/tokenize", model="adaptor-03", prompt="a").error["code"] == "model_not_found"


def test_what_is_too_long_is_refused_before_it_costs_anything(served: Running) -> None:
    long_prompt = served.complete(prompt=[1] * MAX_LENGTH)
    assert long_prompt.status == 413
    assert long_prompt.error["code"] == "context_length_exceeded"
    assert str(MAX_LENGTH) in long_prompt.error["message"]
    # No token of the model stands for so many characters.
    assert "characters" in served.complete(prompt="a" * 10_000 * MAX_LENGTH).error["message"]
    long_answer = served.complete(prompt=[1] * 10, max_tokens=MAX_LENGTH)
    assert (long_answer.status, long_answer.error["param"]) == (400, "max_tokens")
    served.check_idle()


def test_limits_of_body_pool_queue_time_and_key(tiny_model: TinyModel) -> None:
    tight = settings(api_key="secret", max_body_bytes=2000, max_queue=0)
    wanted = engine_settings(tiny_model)
    block_gib = wanted.hbm_cache_gib / 160
    small = engine_settings(tiny_model, hbm_cache_gib=24 * block_gib)
    with running(tight, small) as server:
        assert server.get("/v1/models").status == 401
        assert server.get("/stats").status == 401
        assert server.ask("GET", "/v1/models", headers={"Authorization": "Bearer secre"}).status == 401
        assert server.get("/health").status == server.get("/metrics").status == server.get("/").status == 200
        server.headers["Authorization"] = "Bearer secret"
        assert server.get("/v1/models").status == 200
        assert server.complete(prompt="a" * 3000).error["code"] == "body_too_long"
        # 24 blocks of 16 tokens, less than the model's own limit: the pool is what limits here.
        assert "385 together" in server.complete(prompt=[1] * 400).error["message"]
        assert server.post("/tokenize", prompt="a").json["max_model_len"] == 385
        for card in server.get("/v1/models").json["data"]:
            beyond = server.complete(model=card["id"], prompt=[1] * 400).error["message"]
            assert f"{card['max_model_len']} together" in beyond
            tokenized = server.post("/tokenize", model=card["id"], prompt="a").json
            assert tokenized["max_model_len"] == card["max_model_len"]
        patient = server.server.settings
        with slowed(server):
            server.server.settings = replace(patient, request_timeout_s=0.4)
            slow = server.complete(prompt="a", max_tokens=300, ignore_eos=True)
            assert (slow.status, slow.error["code"]) == (408, "timeout")
            server.check_idle()
            server.server.settings = replace(patient, request_timeout_s=3.0)  # the first token must have come by then
            cut = server.complete(prompt="a", max_tokens=300, ignore_eos=True, stream=True)
            assert cut.status == 200
            assert cut.events[-1]["error"]["code"] == "timeout"
            server.check_idle()
        server.server.settings = patient
        assert server.complete(prompt="a", max_tokens=2).status == 200


def test_a_page_of_another_site_needs_the_key(served: Running, tiny_model: TinyModel) -> None:
    def status(server: Running, method: str, path: str, site: str) -> int:
        body = json.dumps({**COMPLETION, "lora_name": "nobody"}).encode() if method == "POST" else None
        return server.ask(method, path, body, {"Content-Type": "text/plain", "Sec-Fetch-Site": site}).status

    for method, path in (("POST", "/v1/completions"), ("POST", "/v1/unload_lora_adapter"), ("GET", "/v1/models/x")):
        assert status(served, method, path, "cross-site") == 403
        assert {status(served, method, path, site) for site in ("same-origin", "same-site", "none")} <= {200, 404}
    refused = served.ask("GET", "/stats", headers={"Sec-Fetch-Site": "cross-site"})
    assert refused.error["code"] == "cross_site"
    # A link to the dashboard may stand anywhere; what its page asks for is asked by the page.
    assert status(served, "GET", "/", "cross-site") == status(served, "GET", "/metrics", "cross-site") == 200
    assert status(served, "GET", "/stats", "same-origin") == 200
    with running(settings(api_key="secret"), engine_settings(tiny_model)) as server:
        assert status(server, "GET", "/v1/models", "cross-site") == 401
        server.headers["Authorization"] = "Bearer secret"
        assert status(server, "GET", "/v1/models", "cross-site") == 200


def test_a_full_queue_says_when_to_come_back(tiny_model: TinyModel) -> None:
    wanted = engine_settings(tiny_model)
    config = type(wanted.config)(block_tokens=16, max_num_seqs=2, timeline_s=None)
    with running(settings(max_queue=2), engine_settings(tiny_model, config=config)) as server:

        async def burst() -> list[tuple[int, str | None]]:
            async with aiohttp.ClientSession() as session:

                async def one() -> tuple[int, str | None]:
                    body = {**COMPLETION, "max_tokens": 200, "ignore_eos": True}
                    async with session.post(f"{server.url}/v1/completions", json=body) as response:
                        await response.read()
                        return response.status, response.headers.get("Retry-After")

                asked = [asyncio.create_task(one()) for _ in range(10)]
                with slowed(server):  # until all have come, no answer ends and makes room
                    for refused in islice(asyncio.as_completed(asked), 6):
                        await refused
                return await asyncio.gather(*asked)

        answers = asyncio.run(burst())
        assert sorted(status for status, _ in answers) == [200] * 4 + [429] * 6
        assert {wait for status, wait in answers if status == 429} == {"1"}
        # More than can ever be taken on at a time, whatever the prompts are.
        assert "5 answers" in server.complete(prompt="", n=5).error["message"]
        server.check_idle()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=6), children, max_size=3),
    max_leaves=5,
)
known_fields = st.sampled_from(
    [
        "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "n", "temperature", "top_p", "top_k",
        "seed", "stop", "stop_token_ids", "min_tokens", "ignore_eos", "logprobs", "top_logprobs", "echo", "stream",
        "stream_options", "user", "cache_salt", "lora_name", "lora_path", "tokens", "return_token_ids",
        "skip_special_tokens", "add_special_tokens", "include_stop_str_in_output",
    ]
)  # fmt: skip
plausible = st.sampled_from(
    [
        0, 1, 2, 3, -1, 0.5, 1.0, True, "a", "", [1, 2], ["a"], [[1], [2]], BASE, "adapter-01", {"include_usage": True},
        [{"role": "user", "content": "x"}], [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
    ]
)  # fmt: skip


@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(
        [
            "/v1/completions", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize",
            "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
        ]
    ),
    base=st.sampled_from([{}, COMPLETION, CHAT]),
    changes=st.dictionaries(known_fields | st.text(max_size=5), plausible | json_values, max_size=4),
)  # fmt: skip
def test_no_body_is_the_server_s_fault(
    served: Running, path: str, base: dict[str, Any], changes: dict[str, Any]
) -> None:
    body = {**base, **changes}
    if path == "/v1/unload_lora_adapter":
        body.pop("lora_name", None)  # the other tests need the adapters
    reply = served.ask("POST", path, body)
    assert reply.status < 500
    if reply.status >= 400:
        assert reply.error["message"]


def test_a_request_that_never_ends_is_given_up(tiny_model: TinyModel) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    with running(settings(read_timeout_s=0.4), engine_settings(tiny_model)) as server:
        for sent, heard in ((b"", b""), (head, b""), (head + b"\r\n{", b"HTTP/1.1 408 ")):
            with socket.create_connection((server.host, server.port), timeout=10) as connection:
                connection.sendall(sent)
                began_s = time.monotonic()
                assert connection.recv(1 << 16)[: len(b"HTTP/1.1 408 ")] == heard
                assert time.monotonic() - began_s < 5.0
        # What takes longer to answer is none of these.
        server.in_engine(partial(slow_down, by_s=0.002))
        assert server.complete(prompt="a", max_tokens=300, ignore_eos=True).status == 200


def test_a_client_that_never_reads_holds_nothing(tiny_model: TinyModel) -> None:
    with running(settings(read_timeout_s=0.4), engine_settings(tiny_model)) as server:

        async def num_tasks() -> int:
            return len(asyncio.all_tasks())

        def count() -> int:
            return asyncio.run_coroutine_threadsafe(num_tasks(), server.loop).result(timeout=5)

        idle = count()
        with socket.create_connection((server.host, server.port), timeout=10) as connection:
            # Far more answers than the system's buffers hold.
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
            deadline_s = time.monotonic() + 8.0
            while count() == idle:
                assert time.monotonic() < deadline_s
            while count() > idle:
                assert time.monotonic() < deadline_s, "it still waits for its client"
                time.sleep(0.05)
