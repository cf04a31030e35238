"""The few calls of the server's API that a soak makes."""

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

DONE = "data: [DONE]"


@dataclass(frozen=True)
class Answered:
    """A reply. ``tokens`` and ``completion_tokens`` are None where the reply is no answer, or not a whole one."""

    status: int
    body: str
    tokens: list[int] | None = None
    completion_tokens: int | None = None


class Api:
    """One server. Raises aiohttp's errors when the connection fails."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def complete(self, **body: Any) -> Answered:
        """A greedy completion of exact length, streamed or not."""
        asked = {"temperature": 0, "ignore_eos": True, "return_token_ids": True, **body}
        if asked.get("stream"):
            asked["stream_options"] = {"include_usage": True}
        status, text = await self.post("/v1/completions", asked)
        if status != 200:
            return Answered(status, text)
        return _read_stream(text) if asked.get("stream") else _read_whole(text)

    async def post(self, path: str, body: Any) -> tuple[int, str]:
        """``body`` as JSON, or as it is when it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._session.post(self._url + path, data=data, headers=_JSON) as response:
            return response.status, await response.text()

    async def models(self) -> list[dict[str, Any]]:
        async with self._session.get(f"{self._url}/v1/models") as response:
            cards: list[dict[str, Any]] = (await response.json())["data"]
            return cards

    async def host_used(self) -> float:
        """The share of the host tier's blocks in use, as the metrics say; 0 without such a tier."""
        async with self._session.get(f"{self._url}/metrics") as response:
            page = await response.text()
        used, total = (_gauge(page, f"libra:host_{name}") for name in ("blocks", "total_blocks"))
        return used / total if total else 0.0


_JSON = {"Content-Type": "application/json"}


def _gauge(page: str, name: str) -> float:
    (line,) = (line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return float(line.split()[-1])


def _read_whole(text: str) -> Answered:
    document = json.loads(text)
    return Answered(200, text, document["choices"][0]["token_ids"], document["usage"]["completion_tokens"])


def _read_stream(text: str) -> Answered:
    lines = [line for line in text.split("\n") if line]
    if lines[-1:] != [DONE]:
        return Answered(200, text)
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    choices = [choice for event in events for choice in event.get("choices", ())]
    ends = [choice for choice in choices if choice["finish_reason"] is not None]
    if len(ends) != 1:
        return Answered(200, text)
    tokens = [token for choice in choices for token in choice["token_ids"]]
    return Answered(200, text, tokens, events[-1]["usage"]["completion_tokens"])
