"""Which server this is, which models it lists, and which of them stands for which adapter."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.replay.http import Address
from bench.replay.server_info import LIBRA
from libra.errors import LibraError, unknown

DEFAULT_VOCAB_SIZE = 32_000
_TIMEOUT_S = 10.0
_POLL_S = 0.5


@dataclass(frozen=True)
class Server:
    """What ``/v1/models`` says. ``listed`` is empty where a server lists none; ``facts`` is libra's own object.

    ``max_length``: prompt and answer together, in tokens; None where the server does not say.
    """

    base_model: str
    listed: tuple[str, ...]
    owner: str
    facts: Mapping[str, Any]
    max_length: int | None = None

    @property
    def vocab_size(self) -> int:
        """The size libra tells; else one that every tokenizer of the Llama families covers."""
        return int(self.facts.get("vocab_size", DEFAULT_VOCAB_SIZE))

    @property
    def name(self) -> str:
        """A name for tables: the policy of a libra server, else who the server says it is."""
        return str(self.facts.get("policy", self.owner)) or "server"


def ask_server(address: Address, headers: Mapping[str, str], model: str | None, wait_s: float) -> Server:
    """Asks the server for its models, for up to ``wait_s`` where it does not answer yet.

    ``model`` names the base model; without it that is the first card that has no parent. Raises LibraError when the
    server cannot be reached, refuses, or lists no model while ``model`` is not given.
    """
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            status, body = get(address, "/v1/models", headers)
        except (OSError, HTTPException) as error:
            if time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
                continue
            raise _unreachable(address, error) from None
        if status == 503 and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
            continue
        return _server(address, status, body, model)


def serves(address: Address, headers: Mapping[str, str], name: str) -> bool:
    """Whether the server answers for a model that it may not list: libra's looks for an adapter below its --lora-dir
    when it is first asked for. Raises LibraError when the server cannot be reached."""
    try:
        status, body = get(address, f"/v1/models/{quote(name)}", headers)
    except (OSError, HTTPException) as error:
        raise _unreachable(address, error) from None
    return status == 200 and _object(body).get("id") == name


def get(address: Address, path: str, headers: Mapping[str, str], timeout_s: float = _TIMEOUT_S) -> tuple[int, bytes]:
    """Status and body of a GET. Raises OSError or HTTPException."""
    kind = HTTPSConnection if address.is_tls else HTTPConnection
    connection = kind(address.host, address.port, timeout=timeout_s)
    try:
        connection.request("GET", address.path + path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _server(address: Address, status: int, body: bytes, model: str | None) -> Server:
    if status in (401, 403):
        raise LibraError(f"{address}/v1/models: HTTP {status}; give the server's key with --api-key or OPENAI_API_KEY")
    cards = _cards(body) if status == 200 else []
    if not cards and model is None:
        raise LibraError(f"{address}/v1/models: HTTP {status}, no list of models; name the base model with --model")
    by_name = {str(card["id"]): card for card in cards}
    if model is None:
        model = next((name for name, card in by_name.items() if not card.get("parent")), next(iter(by_name)))
    elif by_name and model not in by_name:
        raise unknown(f"model at {address}", model, by_name)
    card = by_name.get(model, {})
    facts = card.get(LIBRA)
    length = card.get("max_model_len")
    return Server(
        model,
        tuple(by_name),
        str(card.get("owned_by") or ""),
        facts if isinstance(facts, dict) else {},
        length if isinstance(length, int) else None,
    )


def _cards(body: bytes) -> list[dict[str, Any]]:
    """The model cards of a list in OpenAI's shape; none where the body is something else."""
    return [card for card in _object(body).get("data") or () if isinstance(card, dict) and "id" in card]


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is; an empty one where it is something else."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _unreachable(address: Address, error: Exception) -> LibraError:
    return LibraError(
        f"--url {address}: cannot be reached ({_reason(error)}); start the server, or correct the address"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def model_names(
    server: Server, adapters: Iterable[str | None], mapping: str | None, is_served: Callable[[str], bool]
) -> dict[str | None, str]:
    """Adapter -> the model name to ask for. The base model (None) is always there.

    ``mapping`` is ``ADAPTER=MODEL,...``, a template that holds ``{}`` for the adapter, or a JSON file that maps names;
    an adapter it leaves out, and every adapter without it, has its own name. Raises LibraError for a name that the
    server neither lists nor answers for (``is_served``), and for a mapping that names an adapter the trace has not.
    """
    wanted = sorted({adapter for adapter in adapters if adapter is not None})
    renamed = {} if mapping is None else _parse_mapping(mapping, wanted)
    for adapter in renamed:
        if adapter not in wanted:
            raise unknown("adapter in --lora-model-map", adapter, wanted)
    names: dict[str | None, str] = {None: server.base_model}
    for adapter in wanted:
        name = renamed.get(adapter, adapter)
        if server.listed and name not in server.listed and not is_served(name):
            raise LibraError(
                f"adapter {adapter}: {unknown('model', name, server.listed)}; "
                "load it into the server, or map it with --lora-model-map"
            )
        names[adapter] = name
    return names


def _parse_mapping(text: str, adapters: list[str]) -> dict[str, str]:
    if "{}" in text:
        return {adapter: text.replace("{}", adapter) for adapter in adapters}
    if "=" in text:
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
        return {adapter.strip(): model.strip() for adapter, _, model in pairs}
    path = Path(text)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LibraError(
            f"--lora-model-map {text}: {error.strerror}; write ADAPTER=MODEL,..., lora-{{}}, or a JSON file"
        ) from None
    except ValueError as error:
        raise LibraError(f"--lora-model-map {text}: not JSON ({error})") from None
    if not isinstance(document, dict) or not all(isinstance(model, str) for model in document.values()):
        raise LibraError(f"--lora-model-map {text}: must be one object that maps adapters to model names")
    return document
