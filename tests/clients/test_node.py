"""OpenAI's client for Node against the server."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.libra.server.running import BASE, engine_settings, running, settings
from tests.tiny_models import TinyModel

HERE = Path(__file__).parent / "node"


def test_the_node_client_lists_completes_chats_streams_and_knows_errors(tiny_model: TinyModel) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    if not (HERE / "node_modules" / "openai").is_dir():
        pytest.skip("openai for Node is not installed; npm ci --prefix tests/clients/node installs it")
    with running(settings(), engine_settings(tiny_model)) as server:
        command = [node, str(HERE / "client.mjs"), server.url, BASE, "adapter-01"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        asked = {"ignore_eos": True, "max_tokens": 6}
        completed = server.complete(model="adapter-01", prompt="abc", **asked)
        chatted = server.chat("hello", model="adapter-01", **asked)
        plain = server.chat("hello", **asked)
        server.check_idle()
    assert found["models"] == [BASE, *tiny_model.adapters]
    assert found["retrieved"] == "adapter-01"
    assert found["completion"] == completed.text
    assert found["chat"] == found["streamed"] == chatted.text
    assert found["gathered"] == plain.text
    assert found["usage"]["completion_tokens"] == found["streamedUsage"]["completion_tokens"] == 6
    assert found["errors"] == [
        {"kind": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"},
        {"kind": "BadRequestError", "status": 400, "code": "invalid_value", "param": "temperature"},
    ]
