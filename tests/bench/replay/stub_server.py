"""A server of OpenAI's API that answers without a model, and misbehaves on demand.

`python -m tests.bench.replay.stub_server --port 8000` runs it by hand.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

BASE = "stub"


@dataclass
class Behaviour:
    """How the stub answers; times in seconds. ``script`` gives the first requests faults of their own, by name:
    ``ok``, an HTTP status such as ``429``, ``reset``, ``cut``, ``stall``, ``error``, ``junk``, ``plain``."""

    ttft_s: float = 0.0
    tpot_s: float = 0.0
    adapters: tuple[str, ...] = ("lora-00", "lora-01", "lora-02", "lora-03")
    script: list[str] = field(default_factory=list)
    usage: bool = True
    wrong_prompt_tokens: int = 0
    short_by: int = 0
    token_ids: bool = False
    cached_tokens: int | None = None
    server: str = "stub"
    split_bytes: int = 0
    text: str = " word"
    retry_after: str = "0"
    models_status: int = 200
    max_model_len: int | None = None
    together: int = 0  # no request is answered before so many have come
    unlisted: tuple[str, ...] = ()  # adapters of which only /v1/models/NAME knows


@dataclass
class Stub:
    """A running stub: its address, its behaviour, and the bodies and headers it was sent."""

    behaviour: Behaviour
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    num_metrics_read: int = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{name}", self.model)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_post("/v1/chat/completions", self.complete)
        return app

    async def models(self, request: web.Request) -> web.Response:
        if self.behaviour.models_status != 200:
            return web.json_response({"error": "no"}, status=self.behaviour.models_status)
        base: dict[str, Any] = {"id": BASE, "object": "model", "owned_by": self.behaviour.server, "parent": None}
        if self.behaviour.server == "libra":
            base["libra"] = {"vocab_size": 500, "policy": "fastlibra", "device": "cpu"}
        if self.behaviour.max_model_len is not None:
            base["max_model_len"] = self.behaviour.max_model_len
        cards = [base, *({"id": name, "object": "model", "parent": BASE} for name in self.behaviour.adapters)]
        return web.json_response({"object": "list", "data": cards})

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in (*self.behaviour.adapters, *self.behaviour.unlisted):
            return web.json_response({"error": "no"}, status=404)
        return web.json_response({"id": name, "object": "model", "parent": BASE})

    async def metrics(self, request: web.Request) -> web.Response:
        self.num_metrics_read += 1
        return web.Response(text=_METRICS.format(count=self.num_metrics_read))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        while len(self.bodies) < self.behaviour.together:
            await asyncio.sleep(0.005)
        fault = self.behaviour.script.pop(0) if self.behaviour.script else "ok"
        if fault.isdigit():
            error = {"error": {"message": f"told to answer {fault}", "type": "stub", "param": None, "code": None}}
            return web.json_response(error, status=int(fault), headers={"Retry-After": self.behaviour.retry_after})
        if fault == "plain":
            return web.json_response({"choices": [{"text": "not a stream"}]})
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await self._stream(response, body, fault, "chat" in request.path)
        return response

    async def _stream(self, response: web.StreamResponse, body: dict[str, Any], fault: str, is_chat: bool) -> None:
        how = self.behaviour
        length = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        length = max(length - how.short_by, 1)
        if is_chat:
            await self._event(response, _chunk({"delta": {"role": "assistant", "content": ""}}))
        await asyncio.sleep(how.ttft_s)
        for index in range(length):
            if fault == "stall" and index == 1:
                await asyncio.sleep(3600)
            if fault in ("cut", "error", "junk") and index == 1:
                break
            choice: dict[str, Any] = {"delta": {"content": how.text}} if is_chat else {"text": how.text}
            if how.token_ids:
                choice["token_ids"] = [index]
            if index == length - 1:
                choice["finish_reason"] = "length"
            await self._event(response, _chunk(choice))
            await asyncio.sleep(how.tpot_s)
        if fault == "error":
            await self._event(response, json.dumps({"error": {"message": "out of blocks", "code": 500}}))
        if fault == "junk":
            await self._event(response, "{not json")
        if fault == "cut":
            await response.write_eof()
            return
        if how.usage:
            await self._event(response, json.dumps({"choices": [], "usage": self._usage(body, length)}))
        await self._event(response, "[DONE]")

    def _usage(self, body: dict[str, Any], length: int) -> dict[str, Any]:
        how = self.behaviour
        prompt = body.get("prompt")
        words = " ".join(message["content"] for message in body.get("messages", ())) if prompt is None else prompt
        count = len(words.split()) if isinstance(words, str) else len(words)
        usage: dict[str, Any] = {"prompt_tokens": count + how.wrong_prompt_tokens, "completion_tokens": length}
        if how.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": how.cached_tokens}
        if how.server == "libra":
            usage["libra"] = {
                "adapter_tier": "host",
                "queue_s": 0.001,
                "evict_wait_s": 0.0,
                "adapter_load_s": 0.004,
                "kv_load_s": 0.0,
                "prefill_s": 0.002,
                "hbm_hit_tokens": 3,
                "host_hit_tokens": 1,
                "preemptions": 0,
            }
        return usage

    async def _event(self, response: web.StreamResponse, data: str) -> None:
        """Writes one event, in pieces of ``split_bytes`` where that is set: they cut frames and characters."""
        raw = f"data: {data}\n\n".encode()
        size = self.behaviour.split_bytes or len(raw)
        for start in range(0, len(raw), size):
            await response.write(raw[start : start + size])
            if size < len(raw):
                await asyncio.sleep(0)


_METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="stub"}} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="stub"}} {count}.0
# TYPE libra:swap_bytes counter
libra:swap_bytes_total{{direction="in"}} {count}00.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{{le="+Inf"}} 4.0
vllm:time_to_first_token_seconds_sum 0.25
vllm:time_to_first_token_seconds_count 4.0
"""


def _chunk(choice: dict[str, Any]) -> str:
    return json.dumps({"id": "x", "choices": [{"index": 0, **choice}]}, ensure_ascii=False)


@asynccontextmanager
async def serving(behaviour: Behaviour, port: int = 0) -> AsyncIterator[Stub]:
    """The stub on a port of its own, until the block ends."""
    stub = Stub(behaviour)
    runner = web.AppRunner(stub.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield stub
    finally:
        await runner.cleanup()


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--ttft", type=float, default=0.05)
    parser.add_argument("--tpot", type=float, default=0.01)
    parser.add_argument("--num-loras", type=int, default=50)
    options = parser.parse_args()
    names = tuple(f"lora-{index:02d}" for index in range(options.num_loras))
    async with serving(Behaviour(options.ttft, options.tpot, names), options.port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
