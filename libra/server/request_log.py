"""One JSON line per request that has ended: what is needed to replay the traffic, and no text unless asked.

The format is that of workloads.openai_log. Hashes of prompt blocks say which prompts begin alike; whoever can guess a
prompt can check the guess, so a log is to be kept as its traffic is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from xxhash import xxh3_64_hexdigest

from libra.errors import LibraError
from libra.model.tokenizer import Tokenizer
from libra.server.generation import Ended
from libra.tokens import adapter_seed, extend_block_hashes

# Headers by which clients say which requests belong together.
SESSION_HEADERS = ("X-Session-Affinity", "X-Session-ID", "X-Correlation-ID")


class RequestLog:
    """Appends to a file. Lines are whole when they are written."""

    def __init__(self, path: Path, block_tokens: int, tokenizer: Tokenizer, with_text: bool) -> None:
        """Raises LibraError when the file cannot be written."""
        self._block_tokens = block_tokens
        self._tokenizer = tokenizer
        self._with_text = with_text
        try:
            self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise LibraError(f"--request-log {path}: {error.strerror}; choose a file that can be written") from error

    def write(self, ended: Ended, arrived_at: float, session: str | None) -> None:
        """``arrived_at`` in seconds since 1970."""
        self._file.write(json.dumps(self._entry(ended, arrived_at, session), separators=(",", ":")) + "\n")

    def close(self) -> None:
        self._file.close()

    def _entry(self, ended: Ended, arrived_at: float, session: str | None) -> dict[str, Any]:
        record = ended.record
        entry: dict[str, Any] = {
            "timestamp": round(arrived_at, 6),
            "adapter": record.adapter,
            "prompt_tokens": record.prompt_tokens,
            "output_tokens": ended.choice.num_tokens,
            "block_tokens": self._block_tokens,
            "prefix_hashes": self._prefix_hashes(ended.prompt),
        }
        if session is not None:
            entry["session"] = session
        if ended.choice.finish_reason is None:
            entry["error"] = record.status
        if self._with_text:
            entry["prompt"] = self._tokenizer.decode(list(ended.prompt))
            entry["output"] = self._tokenizer.decode(ended.choice.tokens)
        return entry

    def _prefix_hashes(self, prompt: tuple[int, ...]) -> list[str]:
        """One text per full block, chained, the same under every adapter."""
        hashes: list[int] = []
        tokens = np.array(prompt, dtype=np.uint32)
        extend_block_hashes(hashes, tokens, self._block_tokens, len(tokens) // self._block_tokens, adapter_seed(None))
        return [f"{value:016x}" for value in hashes]


def session_of(headers: Mapping[str, str], user: str | None) -> str | None:
    """A name for who asks, from the headers or the ``user`` field; hashed, since it may be a person's."""
    told = next((headers[name] for name in SESSION_HEADERS if name in headers), user)
    return None if told is None else xxh3_64_hexdigest(told.encode("utf-8", errors="replace"))
