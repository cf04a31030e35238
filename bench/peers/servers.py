"""Servers under test: started, waited for, asked, and stopped."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from libra.errors import LibraError

HOST = "127.0.0.1"
START_TIMEOUT_S = 600.0
ASK_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.25
_VLLM_RANKS = (8, 16, 32, 64, 128, 256)
# Offline, without statistics to anyone, and no more KV than the blocks asked for need.
_VLLM_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


@dataclass(frozen=True)
class VllmOptions:
    """How a peer ``vllm serve`` is started. ``adapters`` are directories, named as requests ask for them.

    ``num_blocks`` includes vLLM's null block, which holds no KV; None leaves the choice to vLLM.
    """

    executable: Path
    model: Path
    adapters: Sequence[Path] = ()
    max_loras: int = 2
    block_size: int = 32
    num_blocks: int | None = None
    max_model_len: int = 1024

    def command(self, port: int) -> list[str]:
        """The command line. Raises LibraError when the executable is not there."""
        if shutil.which(self.executable) is None:
            raise LibraError(f"--vllm {self.executable}: no such program; bench/peers/README.md says how to get it")
        command = [str(self.executable), "serve", str(self.model), "--served-model-name", "base"]
        command += ["--host", HOST, "--port", str(port), "--max-model-len", str(self.max_model_len)]
        command += ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--block-size", str(self.block_size)]
        if self.num_blocks is not None:
            command += ["--num-gpu-blocks-override", str(self.num_blocks)]
        if self.adapters:
            command += ["--enable-lora", "--max-loras", str(self.max_loras)]
            command += ["--max-lora-rank", str(self._largest_rank()), "--max-cpu-loras", str(len(self.adapters))]
            command += ["--lora-modules", *(f"{path.name}={path}" for path in self.adapters)]
        return command

    def _largest_rank(self) -> int:
        ranks = (json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["r"] for path in self.adapters)
        largest = max(ranks)
        return next((rank for rank in _VLLM_RANKS if rank >= largest), largest)


@contextmanager
def serving(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[str]:
    """Runs a server in a process group of its own, yields its address once it is healthy, and stops it.

    What it prints goes to ``log``. Raises LibraError when it ends, with its last line, or is not ready in time.
    """
    url = f"http://{HOST}:{port}"
    with log.open("wb") as output:
        variables = {**os.environ, **_VLLM_ENVIRONMENT, **environment}
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        try:
            _wait_until_healthy(server, url, log)
            yield url
        finally:
            _stop(server)


def vocab_size(model: Path) -> int:
    """How many tokens a model directory's vocabulary has. Raises LibraError when it is no model's."""
    try:
        return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"])
    except (OSError, ValueError, KeyError) as error:
        raise LibraError(f"--model {model}: config.json does not tell vocab_size; name a model directory") from error


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON answer to a POST of ``body``, or to a GET without. Raises LibraError with the server's words."""
    return json.loads(_fetch(url, None if body is None else json.dumps(body).encode()))


def counters(url: str) -> dict[str, float]:
    """The server's /metrics, each name summed over its labels."""
    totals: dict[str, float] = {}
    for line in _fetch(f"{url}/metrics", None).decode().splitlines():
        sample = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)", line)
        if sample is not None:
            totals[sample[1]] = totals.get(sample[1], 0.0) + float(sample[2])
    return totals


def _fetch(url: str, body: bytes | None) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ASK_TIMEOUT_S) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise LibraError(f"{url}: HTTP {error.code}: {error.read().decode(errors='replace')[:300]}") from error
    except OSError as error:
        raise LibraError(f"{url}: no answer ({error})") from error


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if server.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
            raise LibraError(f"the server for {url} ended with code {server.returncode}: {lines[-1]}")
        try:
            _fetch(f"{url}/health", None)
        except LibraError:
            time.sleep(_POLL_S)
        else:
            return
    raise LibraError(f"the server at {url} was not ready in {START_TIMEOUT_S:g} s")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ends the server and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(_STOP_TIMEOUT_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    server.wait(_STOP_TIMEOUT_S)
