"""The HTTP side: routes, errors, streams."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from libra import __version__
from libra.server import body_fields as body
from libra.server.answers import END_OF_STREAM, AnswerShape, event
from libra.server.asked import Asked, read_chat, read_completion, read_messages
from libra.server.connections import ConnectionWatch
from libra.server.engine_client import EngineStopped
from libra.server.errors import ApiError, bad_field, timed_out
from libra.server.fields import Fields, parse_object
from libra.server.generation import Generation
from libra.server.openapi import OPENAPI_FILE
from libra.server.outlet import Outlet
from libra.server.request_log import session_of
from libra.server.server import Server
from libra.server.stats import dashboard_stats

logger = logging.getLogger("libra.server")

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SERVER = web.AppKey("server", Server)

_DASHBOARD = Path(__file__).parent / "dashboard"
_FILES = {
    "/": (_DASHBOARD / "index.html", "text/html"),
    "/dashboard.js": (_DASHBOARD / "dashboard.js", "text/javascript"),
    "/dashboard.css": (_DASHBOARD / "dashboard.css", "text/css"),
    "/openapi.json": (OPENAPI_FILE, "application/json"),
}
# Probes and scrapers seldom have a key. /metrics, open as vLLM's is, names the adapters that have requests; no text.
_OPEN_PATHS = frozenset({"/health", "/ping", "/metrics", "/version", *_FILES})
_READING_GRACE_S = 10.0
# What is read from a body longer than this, in bytes, takes milliseconds.
_LONG_BODY = 1 << 16
_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


def make_app(server: Server, watch: ConnectionWatch) -> web.Application:
    """The application. It serves; starting and stopping the server is the caller's."""
    app = web.Application(
        middlewares=[watch.mark, _answer_errors, _check_client],
        client_max_size=server.settings.max_body_bytes,
    )
    app[SERVER] = server
    app.on_cleanup.append(watch.end)
    app.router.add_get("/health", _health)
    app.router.add_get("/ping", _health)
    app.router.add_get("/version", _version)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/stats", _stats)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/v1/models/{name:.+}", _model)
    app.router.add_post("/v1/completions", _completions)
    app.router.add_post("/v1/chat/completions", _chat)
    app.router.add_post("/v1/load_lora_adapter", _load_adapter)
    app.router.add_post("/v1/unload_lora_adapter", _unload_adapter)
    app.router.add_post("/tokenize", _tokenize)
    app.router.add_post("/detokenize", _detokenize)
    for path, (file, content_type) in _FILES.items():
        app.router.add_get(path, _file(file, content_type))
    return app


# ---- what holds for every request ------------------------------------------------------------------------------------


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever goes wrong into OpenAI's error object."""
    server = request.app[SERVER]
    try:
        response = await handler(request)
    except ApiError as error:
        response = _error_response(error)
    except EngineStopped as error:
        response = _error_response(ApiError(503, str(error), "engine_dead"))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = _error_response(_as_api_error(error, request))
    except ConnectionError:
        return web.Response(status=499)  # nobody is there to read it
    except Exception:
        logger.exception("%s %s", request.method, request.path)
        response = _error_response(ApiError(500, "An error in the server; its log says more.", "internal_error"))
    if response.status >= 400:
        server.metrics.count_refused(response.status)
    if not response.prepared and "X-Request-ID" in request.headers:
        response.headers["X-Request-ID"] = request.headers["X-Request-ID"]
    return response


@web.middleware
async def _check_client(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path in _OPEN_PATHS:
        return await handler(request)
    key = request.app[SERVER].settings.api_key
    if key is None:
        # A browser lets any page send plain bodies and fetch pictures from here, and says so. GET may load an adapter.
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise ApiError(403, "A page of another site may use this server with its --api-key only.", "cross_site")
    else:
        told = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(told.encode("utf-8", "replace"), key.encode()):
            raise ApiError(401, "The API key is missing or wrong.", "invalid_api_key")
    return await handler(request)


def _as_api_error(error: web.HTTPException, request: web.Request) -> ApiError:
    if error.status == 404:
        return ApiError(404, f"There is no {request.method} {request.path}.", "not_found")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.path} takes {allowed}, not {request.method}."
        return ApiError(405, message, "method_not_allowed", headers={"Allow": allowed})
    if error.status == 413:
        return _body_too_long(request)
    return ApiError(error.status, error.reason)


def _body_too_long(request: web.Request) -> ApiError:
    limit = request.app[SERVER].settings.max_body_bytes
    return ApiError(413, f"The body is longer than {limit} bytes.", "body_too_long")


def _error_response(error: ApiError) -> web.Response:
    return web.json_response(error.document(), status=error.status, headers=error.headers)


async def _fields(request: web.Request) -> Fields:
    settings = request.app[SERVER].settings
    if (request.content_length or 0) > settings.max_body_bytes:
        raise _body_too_long(request)  # before any of it comes
    timeout_s = min(settings.read_timeout_s, settings.request_timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            return Fields(parse_object(await request.read()))
    except TimeoutError:
        raise timed_out(timeout_s) from None
    except web.RequestPayloadError as error:
        raise ApiError(400, f"The body cannot be read: {error}", "invalid_body") from None


# ---- completions -----------------------------------------------------------------------------------------------------


async def _completions(request: web.Request) -> web.StreamResponse:
    fields = await _fields(request)
    return await _generate(request, fields, partial(read_completion, fields))


async def _chat(request: web.Request) -> web.StreamResponse:
    fields = await _fields(request)
    return await _generate(request, fields, partial(read_chat, fields, request.app[SERVER].template))


async def _generate(request: web.Request, fields: Fields, read: Callable[[], Asked]) -> web.StreamResponse:
    server = request.app[SERVER]
    is_long = len(await request.read()) > _LONG_BODY
    asked = await _aside(server, read) if is_long else read()
    server.metrics.count_ignored(fields.unread())
    async with server.generate(asked, session_of(request.headers, asked.user)) as (generation, shape):
        if asked.options.stream:
            return await _stream(request, generation, shape)
        return web.json_response(shape.whole([piece async for piece in generation.pieces()]))


async def _stream(request: web.Request, generation: Generation, shape: AnswerShape) -> web.StreamResponse:
    """Server-sent events. The status goes out with the first piece, so that what fails before it has its own."""
    response = web.StreamResponse(headers=_STREAM_HEADERS)
    try:
        # A client that does not read must not keep this request for ever.
        async with asyncio.timeout_at(generation.deadline_s + _READING_GRACE_S):
            try:
                async for piece in generation.pieces():
                    if not response.prepared:
                        await response.prepare(request)
                        # What comes until this piece is in the connection's buffer cannot overtake it: nothing waits.
                        generation.divert(Outlet(request, shape))
                    await response.write(shape.chunks(piece))
                ending = shape.last_chunks()
            except ApiError as error:
                if not response.prepared:
                    raise
                request.app[SERVER].metrics.count_refused(error.status)
                ending = event(error.document()) + END_OF_STREAM
            await response.write_eof(ending)
    except Exception as error:
        if not response.prepared or isinstance(error, ConnectionError):
            raise
        if not isinstance(error, TimeoutError):
            logger.exception("%s %s", request.method, request.path)
        # An answer with a status would be taken for a part of the body that is open.
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the stream cannot go on") from None
    return response


async def _aside(server: Server, work: Callable[[], T]) -> T:
    """What ``work`` returns, done in a thread so that nobody else waits for it."""
    return await asyncio.get_running_loop().run_in_executor(server.readers, work)


# ---- adapters --------------------------------------------------------------------------------------------------------


async def _load_adapter(request: web.Request) -> web.Response:
    server, fields = request.app[SERVER], await _fields(request)
    name, path = body.LORA_NAME.need(fields), body.LORA_PATH.need(fields)
    server.check_open()
    if name == server.model.name:
        raise bad_field("lora_name", f"{name!r} is the base model")
    await server.adapters.load(name, path, body.LOAD_INPLACE.read(fields))
    return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")


async def _unload_adapter(request: web.Request) -> web.Response:
    server, fields = request.app[SERVER], await _fields(request)
    name = body.LORA_NAME.need(fields)
    await server.adapters.unload(name)
    return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": request.app[SERVER].cards()})


async def _model(request: web.Request) -> web.Response:
    server, name = request.app[SERVER], request.match_info["name"]
    await server.adapter(name)
    return web.json_response(next(card for card in server.cards() if card["id"] == name))


# ---- tokens ----------------------------------------------------------------------------------------------------------


async def _tokenize(request: web.Request) -> web.Response:
    """vLLM's: a prompt, or messages through the chat template."""
    server, fields = request.app[SERVER], await _fields(request)
    limit = server.model.context_length(server.engine, await _find_model(server, fields))
    tokens = await _aside(server, partial(_tokens, server, fields))
    return web.json_response({"count": len(tokens), "max_model_len": limit, "tokens": tokens})


def _tokens(server: Server, fields: Fields) -> list[int]:
    text = body.TOKENIZED_PROMPT.read(fields)
    special = body.ADD_SPECIAL_TOKENS.read(fields, default=text is not None or server.template.is_default)
    if text is None:
        text = server.template.render(read_messages(fields), body.ADD_GENERATION_PROMPT.read(fields))
    return server.model.tokenizer.encode(text, special)


async def _detokenize(request: web.Request) -> web.Response:
    server, fields = request.app[SERVER], await _fields(request)
    await _find_model(server, fields)
    tokens = body.TOKENS.read(fields)
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise bad_field("tokens", "must be a list of token ids")
    if tokens and not 0 <= min(tokens) <= max(tokens) < server.model.vocab_size:
        raise bad_field("tokens", f"holds a number outside the vocabulary of {server.model.vocab_size}")
    text = await _aside(server, partial(server.model.tokenizer.decode, tokens, False))
    return web.json_response({"prompt": text})


async def _find_model(server: Server, fields: Fields) -> str | None:
    """The adapter named, None for the base model: the tokenizer is every model's, but one that nobody serves is a
    mistake."""
    name = body.TOKENIZED_MODEL.read(fields)
    return None if name is None else await server.adapter(name)


# ---- state -----------------------------------------------------------------------------------------------------------


async def _health(request: web.Request) -> web.Response:
    request.app[SERVER].check_open()
    return web.json_response({"status": "ok"})


async def _version(request: web.Request) -> web.Response:
    return web.json_response({"version": __version__})


async def _metrics(request: web.Request) -> web.Response:
    page = await asyncio.to_thread(request.app[SERVER].metrics.page)
    return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def _stats(request: web.Request) -> web.Response:
    server = request.app[SERVER]
    return web.json_response(dashboard_stats(server.engine, server.recent_parts, server.model.name, server.policy_name))


def _file(path: Path, content_type: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, headers={"Content-Type": content_type, "Cache-Control": "no-cache"})

    return handler
