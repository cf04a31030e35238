"""The API in OpenAPI's terms. ``python -m libra.server.openapi`` writes it; openapi.json beside this file is a copy of
that, and what the server hands out."""

import json
import sys
from pathlib import Path
from typing import Any

from libra import __version__
from libra.server import body_fields as body

OPENAPI_FILE = Path(__file__).parent / "openapi.json"

_GENERATION_FAULTS = (400, 401, 403, 404, 408, 413, 429, 500, 503)
_BODY_FAULTS = (400, 401, 403, 404, 408, 413, 503)
_MEANINGS = {
    400: "A field that cannot be what it is, named in param.",
    401: "The API key is missing or wrong.",
    403: "A browser asks for a page of another site, and the server has no key.",
    404: "No such model; the message names the nearest.",
    408: "The request took longer than the server allows.",
    413: "A body or prompt that is too long.",
    429: "The queue is full; Retry-After says when to come back.",
    500: "The adapter cannot be read, or what it computes is not finite.",
    503: "The server is draining, or its engine has died.",
}
_WHOLE = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}
_FINISH = {"enum": ["stop", "length", None]}
_STOP_REASON = {"type": ["string", "integer", "null"]}
_TOKEN_IDS = {"type": "array", "items": _WHOLE}


def document() -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "libra",
            "version": __version__,
            "description": "OpenAI's API for one base model and many LoRA adapters. Unknown fields are ignored.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # A key is needed only where the server was given one.
        "security": [{}, {"key": []}],
    }


def _paths() -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "/v1/completions": _post("Complete prompts", body.COMPLETION_FIELDS, "Completion", _GENERATION_FAULTS, True),
        "/v1/chat/completions": _post("Answer a conversation", body.CHAT_FIELDS, "Chat", _GENERATION_FAULTS, True),
        "/v1/models": _get("The base model and its adapters", "ModelList", (401, 403)),
        "/v1/models/{name}": {**_get("One of them", "Model", (401, 403, 404)), "parameters": [name]},
        "/v1/load_lora_adapter": _post("Take an adapter into service", body.LOAD_FIELDS, None, _BODY_FAULTS),
        "/v1/unload_lora_adapter": _post("Take one out of service", body.UNLOAD_FIELDS, None, _BODY_FAULTS),
        "/tokenize": _post("Text, or a conversation, to token ids", body.TOKENIZE_FIELDS, "Tokens", _BODY_FAULTS),
        "/detokenize": _post("Token ids to text", body.DETOKENIZE_FIELDS, "Text", _BODY_FAULTS),
        "/health": _get("Whether requests are taken", "Status", (503,)),
        "/ping": _get("The same", "Status", (503,)),
        "/version": _get("The server's version", "Version", ()),
        "/stats": _get("What the dashboard draws", "Stats", (401, 403)),
        "/metrics": {"get": {"summary": "Prometheus", "responses": {"200": _answer("Metrics", "text/plain", _TEXT)}}},
        "/openapi.json": _get("This description", "Stats", ()),
    }


def _post(
    summary: str, fields: tuple[body.Field, ...], answer: str | None, faults: tuple[int, ...], streams: bool = False
) -> dict[str, Any]:
    """An operation with a body; without a name for its answer, that is a line of text."""
    good = _answer("Done", "text/plain", _TEXT) if answer is None else _answer("The answer", *_json(answer))
    if streams:
        good["content"]["text/event-stream"] = {}  # of what an event holds, 3.1 cannot speak
    schema = {"application/json": {"schema": body.body_schema(fields)}}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": schema},
            "responses": {"200": good, **_faults(faults)},
        }
    }


def _get(summary: str, answer: str, faults: tuple[int, ...]) -> dict[str, Any]:
    responses = {"200": _answer("The answer", *_json(answer)), **_faults(faults)}
    return {"get": {"summary": summary, "responses": responses}}


def _faults(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {str(status): _answer(_MEANINGS[status], *_json("Error")) for status in statuses}


def _answer(description: str, content_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": schema}}}


def _json(name: str) -> tuple[str, dict[str, Any]]:
    return "application/json", {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Any) -> dict[str, Any]:
    """An object that has all of ``properties``, and perhaps more."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _schemas() -> dict[str, Any]:
    usage = _object(
        prompt_tokens=_WHOLE, completion_tokens=_WHOLE, total_tokens=_WHOLE,
        prompt_tokens_details=_object(cached_tokens=_WHOLE),
    )  # fmt: skip
    usage["properties"]["libra"] = {"type": "object"}
    ended = {"index": _WHOLE, "finish_reason": _FINISH, "stop_reason": _STOP_REASON}
    choice = _object(**ended, text=_TEXT, logprobs={"type": ["object", "null"]})
    message = _object(role={"const": "assistant"}, content=_TEXT)
    said = _object(**ended, message=message, logprobs={"type": ["object", "null"]})
    for one in (choice, said):
        one["properties"]["token_ids"] = _TOKEN_IDS
    head = {"id": _TEXT, "created": _WHOLE, "model": _TEXT, "usage": usage}
    return {
        "Completion": _object(**head, object={"const": "text_completion"}, choices=_list(choice)),
        "Chat": _object(**head, object={"const": "chat.completion"}, choices=_list(said)),
        "Model": _object(
            id=_TEXT, object={"const": "model"}, created=_WHOLE, owned_by=_TEXT, root=_TEXT, parent=_MAYBE_TEXT,
            max_model_len=_WHOLE,
        ),
        "ModelList": _object(object={"const": "list"}, data=_list({"$ref": "#/components/schemas/Model"})),
        "Tokens": _object(count=_WHOLE, max_model_len=_WHOLE, tokens=_TOKEN_IDS),
        "Text": _object(prompt=_TEXT),
        "Status": _object(status={"const": "ok"}),
        "Version": _object(version=_TEXT),
        "Stats": {"type": "object"},
        "Error": _object(error=_object(message=_TEXT, type=_TEXT, param=_MAYBE_TEXT, code=_MAYBE_TEXT)),
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=1) + "\n")
