"""One JSON line per request that has ended: what is needed to replay the traffic, and no text unless asked.

The format is that of workloads.openai_log. Hashes of prompt blocks say which prompts begin alike; whoever can guess a
prompt can check the guess, so a log is to be kept as its traffic is.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from libra.errors import LibraError
from libra.model.tokenizer import Tokenizer
from libra.server.generation import Ended
from libra.tokens import adapter_seed, extend_block_hashes

logger = logging.getLogger("libra.server")

# Headers by which clients say which requests belong together.
SESSION_HEADERS = ("X-Session-Affinity", "X-Session-ID", "X-Correlation-ID")


class RequestLog:
    """Appends to a file, line by line. What cannot be written is lost; no line is left in half."""

    def __init__(self, path: Path, block_tokens: int, tokenizer: Tokenizer, with_text: bool) -> None:
        """Raises LibraError when the file cannot be written."""
        self._block_tokens = block_tokens
        self._tokenizer = tokenizer
        self._with_text = with_text
        self._torn = b""  # the rest of a line that has begun
        self._has_failed = False
        try:
            if with_text:
                path.touch(mode=0o600)  # for its owner alone; one that is there keeps its mode
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise LibraError(f"--request-log {path}: {error.strerror}; choose a file that can be written") from error

    def write(self, ended: Ended, arrived_at: float, session: str | None) -> bool:
        """Whether the line is in the file; the server's log tells of the first that is not. ``arrived_at`` in seconds
        since 1970."""
        line = json.dumps(self._entry(ended, arrived_at, session), separators=(",", ":")).encode() + b"\n"
        rest = self._torn + line
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._torn = rest if len(rest) < len(line) else rest[: -len(line)]
            if not self._has_failed:
                logger.error("the request log cannot be written: %s; lines are lost until it can", error)
            self._has_failed = True
            return False
        self._torn = b""
        return True

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
