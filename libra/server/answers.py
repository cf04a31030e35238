"""Answers in the shapes of OpenAI's API."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from libra.engine.record import RequestRecord
from libra.engine.sequence import TokenLogprobs
from libra.model.tokenizer import Tokenizer
from libra.server.choice import Choice, Piece
from libra.server.generation import Generation

END_OF_STREAM = b"data: [DONE]\n\n"
# json.dumps makes an encoder anew for every event.
_encode = json.JSONEncoder(separators=(",", ":")).encode
# What ``usage.libra`` tells of the first answer, names as in RequestRecord.
TOLD = (
    "adapter_tier", "queue_s", "evict_wait_s", "adapter_load_s", "kv_load_s", "prefill_s", "hbm_hit_tokens",
    "host_hit_tokens", "preemptions",
)  # fmt: skip


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % _encode(document).encode()


class AnswerShape(ABC):
    """Writes one answer, whole or in chunks. ``identifier``, ``created`` and ``model`` go into every object."""

    whole_object: str
    chunk_object: str
    prefix: str

    def __init__(self, identifier: str, created: int, model: str, generation: Generation, tokenizer: Tokenizer) -> None:
        self._head = {"id": f"{self.prefix}-{identifier}", "created": created, "model": model}
        self._generation = generation
        self._tokenizer = tokenizer
        self._options = generation.asked.options
        self._asks_logprobs = generation.asked.sampling.logprobs is not None
        self._tells_text_alone = not (self._asks_logprobs or self._options.token_ids or self._options.continuous_usage)
        self._frames: dict[int, tuple[bytes, bytes]] = {}
        self._begun: set[int] = set()
        self._num_sent = 0

    def chunks(self, piece: Piece) -> bytes:
        """The events of one piece."""
        if self._tells_text_alone and piece.finish_reason is None and piece.index in self._begun:
            before, after = self._frames.get(piece.index) or self._frame(piece.index)
            return before + _encode(piece.text).encode() + after
        written = b""
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            opening = self._opening(piece.index)
            written = b"" if opening is None else self._chunk(opening)
        self._num_sent += len(piece.token_ids)
        choice = self._piece(piece) | {"finish_reason": piece.finish_reason, "stop_reason": piece.stop_reason}
        if self._options.token_ids:
            choice["token_ids"] = piece.token_ids
        return written + self._chunk(choice)

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the text in most events of an answer, which differ in nothing else."""
        mark = "text"
        written = self._chunk(self._piece(Piece(index, mark, [], [])) | {"finish_reason": None, "stop_reason": None})
        # No field after the text has it as its value.
        before, _, after = written.rpartition(_encode(mark).encode())
        self._frames[index] = before, after
        return before, after

    def last_chunks(self) -> bytes:
        """What ends a stream that went well."""
        if not self._options.usage:
            return END_OF_STREAM
        document = self._document(self.chunk_object) | {"choices": [], "usage": usage(self._generation)}
        return event(document) + END_OF_STREAM

    def whole(self, pieces: Iterable[Piece]) -> dict[str, Any]:
        """The answer in one object, from all of its pieces."""
        joined: dict[int, list[Piece]] = {choice.index: [] for choice in self._generation.choices}
        for piece in pieces:
            joined[piece.index].append(piece)
        choices = [self._join(choice, joined[choice.index]) for choice in self._generation.choices]
        return self._document(self.whole_object) | {"choices": choices, "usage": usage(self._generation)}

    def _join(self, choice: Choice, pieces: list[Piece]) -> dict[str, Any]:
        piece = Piece(
            choice.index,
            "".join(one.text for one in pieces),
            [token for one in pieces for token in one.token_ids],
            [entry for one in pieces for entry in one.logprobs],
        )
        written = self._whole(piece) | {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
        return written | ({"token_ids": piece.token_ids} if self._options.token_ids else {})

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        document = self._document(self.chunk_object) | {"choices": [choice]}
        if self._options.continuous_usage:
            document["usage"] = _counts(self._generation, self._num_sent)
        elif self._options.usage:
            document["usage"] = None
        return event(document)

    def _document(self, kind: str) -> dict[str, Any]:
        return {**self._head, "object": kind}

    def _token_text(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def _opening(self, index: int) -> dict[str, Any] | None:
        """A chunk before the first piece of an answer."""
        return None

    @abstractmethod
    def _piece(self, piece: Piece) -> dict[str, Any]:
        """A piece as a choice of a chunk."""

    @abstractmethod
    def _whole(self, piece: Piece) -> dict[str, Any]:
        """A whole answer as a choice."""


class CompletionShape(AnswerShape):
    """/v1/completions."""

    whole_object = chunk_object = "text_completion"
    prefix = "cmpl"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._offsets: dict[int, int] = {}

    def _piece(self, piece: Piece) -> dict[str, Any]:
        logprobs = self._logprobs(piece) if self._asks_logprobs else None
        return {"index": piece.index, "text": piece.text, "logprobs": logprobs}

    _whole = _piece

    def _logprobs(self, piece: Piece) -> dict[str, Any]:
        """Four lists with one entry per token; offsets count characters of the tokens' own texts."""
        texts = [self._token_text(token) for token in piece.token_ids]
        offset = self._offsets.get(piece.index, 0)
        offsets = [offset + sum(map(len, texts[:number])) for number in range(len(texts))]
        self._offsets[piece.index] = offset + sum(map(len, texts))
        return {
            "tokens": texts,
            "token_logprobs": [_finite(entry.chosen) for entry in piece.logprobs],
            "top_logprobs": [self._top(entry) for entry in piece.logprobs],
            "text_offset": offsets,
        }

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        return {self._token_text(token): _finite(value) for token, value in entry.top}


class ChatShape(AnswerShape):
    """/v1/chat/completions."""

    whole_object, chunk_object = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def _opening(self, index: int) -> dict[str, Any]:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def _piece(self, piece: Piece) -> dict[str, Any]:
        return {"index": piece.index, "delta": {"content": piece.text}, "logprobs": self._logprobs(piece)}

    def _whole(self, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text}
        return {"index": piece.index, "message": message, "logprobs": self._logprobs(piece)}

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if not self._asks_logprobs:
            return None
        return {
            "content": [
                self._entry(token, entry.chosen) | {"top_logprobs": [self._entry(*other) for other in entry.top]}
                for token, entry in zip(piece.token_ids, piece.logprobs, strict=True)
            ]
        }

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        text = self._token_text(token)
        return {"token": text, "logprob": _finite(value), "bytes": list(text.encode())}


def _finite(logprob: float) -> float:
    """A probability of zero as OpenAI writes it: JSON has no infinity."""
    return max(logprob, -9999.0)


def usage(generation: Generation) -> dict[str, Any]:
    """Token counts of answers that have ended, and where the time of the first of them went, if the engine lived to
    tell."""
    choices, asked = generation.choices, generation.asked
    document = _counts(generation, sum(choice.num_tokens for choice in choices))
    records = [choice.record for choice in choices[:: asked.n] if choice.record is not None]
    document["prompt_tokens_details"] = {"cached_tokens": sum(map(cached_tokens, records))}
    if (first := choices[0].record) is not None:
        document["libra"] = {name: getattr(first, name) for name in TOLD}
    return document


def _counts(generation: Generation, completion_tokens: int) -> dict[str, Any]:
    prompt_tokens = sum(map(len, generation.prompts))
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def cached_tokens(record: RequestRecord) -> int:
    """Prompt tokens whose KV was there already, in HBM or host memory."""
    return min(record.hbm_hit_tokens + record.host_hit_tokens, record.prompt_tokens)
