"""The description of the API: that it is what the server reads, and that the server is what it says, whatever comes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from libra.engine.config import EngineConfig
from libra.server import body_fields as body
from libra.server.app import make_app
from libra.server.asked import read_chat, read_completion
from libra.server.chat_template import ChatTemplate
from libra.server.connections import ConnectionWatch
from libra.server.fields import Fields
from libra.server.openapi import OPENAPI_FILE, document
from tests.libra.server.running import BLOCK_TOKENS, Running, engine_settings, running, settings
from tests.tiny_models import TinyModel

DOCS = Path(__file__).parents[3] / "docs" / "serving.md"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# The dashboard's page, script and style are no part of the API.
NO_API = {"/", "/dashboard.js", "/dashboard.css"}


class Watched(Fields):
    """Knows which fields were asked for."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(document)
        self.read: set[str] = set()

    def raw(self, name: str) -> Any:
        self.read.add(name)
        return super().raw(name)


@pytest.fixture(scope="module")
def small(tiny_model: TinyModel) -> Iterator[Running]:
    """A server whose longest answer takes milliseconds."""
    torch.set_num_threads(1)
    config = EngineConfig(block_tokens=BLOCK_TOKENS, max_num_seqs=4, max_num_batched_tokens=128, timeline_s=None)
    wanted = engine_settings(tiny_model, config=config, max_model_len=48)
    with running(settings(max_queue=4), wanted) as server:
        yield server
        server.check_idle()


def test_the_file_in_the_package_is_the_document(served: Running) -> None:
    assert json.loads(OPENAPI_FILE.read_text()) == document(), "python -m libra.server.openapi writes it"
    reply = served.get("/openapi.json")
    assert (reply.status, reply.json) == (200, document())
    assert reply.headers["Content-Type"] == "application/json"


def test_every_route_is_described_and_nothing_else(served: Running) -> None:
    routes = {
        (resource.canonical, route.method.lower())
        for resource in make_app(served.server, ConnectionWatch(1.0)).router.resources()
        for route in resource
        if route.method != "HEAD" and resource.canonical not in NO_API
    }
    described = {
        (path, method) for path, one in document()["paths"].items() for method in one if method != "parameters"
    }
    assert routes == described


def test_bodies_are_read_by_the_tables_that_describe_them(tiny_model: TinyModel) -> None:
    completion = Watched({"model": "m", "prompt": "a"})
    read_completion(completion)
    chat = Watched({"model": "m", "messages": [{"role": "user", "content": "a"}]})
    read_chat(chat, ChatTemplate(tiny_model.directory))
    for fields, table in ((completion, body.COMPLETION_FIELDS), (chat, body.CHAT_FIELDS)):
        assert fields.read == {field.name for field in table}


def test_the_docs_name_every_field() -> None:
    text = DOCS.read_text()
    tables = (body.COMPLETION_FIELDS, body.CHAT_FIELDS, body.STREAM_OPTION_FIELDS, body.LOAD_FIELDS)
    assert [field.name for table in tables for field in table if field.name not in text] == []


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_what_the_document_says_whatever_is_sent(small: Running, mode: GenerationMode) -> None:
    """Bodies that fit the document, and bodies that do not in one place."""
    schema = schemathesis.openapi.from_dict(document())
    operations = [found.ok() for found in schema.get_all_operations()]
    if mode is GenerationMode.NEGATIVE:
        operations = [operation for operation in operations if operation.body]

    @hypothesis_settings(max_examples=80, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations]), st.data())
    def check(case: Any, data: st.DataObject) -> None:
        # A name that is served gets past the 404, to all that lies behind it.
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = data.draw(st.sampled_from(["tiny-base", "adapter-01", "adapter-04", "nobody"]))
        response = case.call(base_url=small.url, timeout=20)
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    check()
    small.check_idle()
