"""Serving a trace turn by turn: a stub in vLLM's place."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.peers.servers import VllmOptions, ask, counters
from bench.peers.vllm_prefix import with_answers
from libra.errors import LibraError
from libra.request import Request, Segment
from libra.tokens import segment_tokens

METRICS = """# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="base"} 64.0
vllm:prefix_cache_hits_total{engine="1",model_name="base"} 32.0
vllm:num_preemptions_total 1.0
"""


class Stub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send(200, METRICS.encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "model" in body:
            self._send(200, json.dumps({"asked": body["model"]}).encode())
        else:
            self._send(400, b"no model")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def stub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_counters_are_summed_over_labels(stub: str) -> None:
    assert counters(stub) == {"vllm:prefix_cache_hits_total": 96.0, "vllm:num_preemptions_total": 1.0}


def test_a_refusal_carries_the_servers_words(stub: str) -> None:
    assert ask(f"{stub}/v1/completions", {"model": "lora-00"}) == {"asked": "lora-00"}
    with pytest.raises(LibraError, match="HTTP 400: no model"):
        ask(f"{stub}/v1/completions", {})


def test_later_turns_hold_what_the_server_said() -> None:
    prompt = (Segment("sys", 0, 3), Segment("s0.o0", 0, 2), Segment("s0.t1", 0, 2))
    request = Request(id=1, arrival_s=0.0, adapter=None, output_tokens=1, prompt=prompt)
    recorded = with_answers(request, {}, 100)
    assert recorded == tuple(token for segment in prompt for token in segment_tokens(*segment, 100).tolist())
    assert with_answers(request, {"s0.o0": (7, 8, 9)}, 100) == (*recorded[:3], 7, 8, *recorded[5:])


def test_the_rank_vllm_is_given_is_one_it_knows(tmp_path: Path) -> None:
    program = tmp_path / "vllm"
    program.write_text("")
    program.chmod(0o755)
    adapters = []
    for name, rank in (("lora-00", 8), ("lora-01", 24)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
        adapters.append(tmp_path / name)
    command = VllmOptions(program, tmp_path, adapters, num_blocks=64).command(8000)
    assert command[command.index("--max-lora-rank") + 1] == "32"
    assert command[command.index("--num-gpu-blocks-override") + 1] == "64"
    assert command[-2:] == [f"lora-00={adapters[0]}", f"lora-01={adapters[1]}"]
    assert "--enable-lora" not in VllmOptions(program, tmp_path).command(8000)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(LibraError, match="--vllm nowhere/vllm: no such program"):
        VllmOptions(Path("nowhere/vllm"), Path()).command(8000)
