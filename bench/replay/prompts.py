"""Request bodies: a trace's prompt as token ids, as text or as chat messages, and how the answer is to be made."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from bench.replay.answer import Answer
from bench.replay.words import token_words
from libra.request import Request, Segment
from libra.tokens import segment_tokens

_CACHED_SEGMENTS = 16_384


@dataclass(frozen=True)
class BodyOptions:
    """What goes into every body. ``extra`` are further fields, which win over these."""

    vocab_size: int
    ignore_eos: bool = True
    temperature: float = 0.0
    ask_token_ids: bool = False
    ask_server_times: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


# Segment id -> the answer a server gave in its place.
Answers = Mapping[str, Answer]


class BodyWriter(ABC):
    """Writes the JSON body of a request. ``is_exact`` says whether prompt lengths are those of the trace."""

    is_exact = False
    _length_field = "max_tokens"

    def __init__(self, options: BodyOptions, models: Mapping[str | None, str], outputs: frozenset[str]) -> None:
        """``models`` maps adapters to model names; ``outputs`` are the segments that stand for answers."""
        self._vocab_size = options.vocab_size
        self._outputs = outputs
        self._starts = {adapter: f'{{"model":{json.dumps(name)},'.encode() for adapter, name in models.items()}
        self._exact_length = options.ignore_eos and "ignore_eos" not in options.extra
        fields: dict[str, Any] = {
            "temperature": options.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if options.ask_token_ids:
            fields["return_token_ids"] = True
        if options.ask_server_times:
            fields["include_metrics"] = True
        self._end = json.dumps(fields | dict(options.extra), separators=(",", ":"))[1:].encode()

    def as_sent(self, request: Request, answers: Answers) -> Request:
        """The request with the lengths of the prompt that ``write`` makes of it, where they can be known."""
        return request

    def write(self, request: Request, answers: Answers) -> bytes:
        """The body of a request ``as_sent``; what the server said for an earlier turn is sent back from ``answers``."""
        length = b'"%s":%d,' % (self._length_field.encode(), request.output_tokens)
        if self._exact_length:
            length += b'"ignore_eos":true,"min_tokens":%d,' % request.output_tokens
        return self._starts[request.adapter] + self._prompt(request, answers) + b"," + length + self._end

    @abstractmethod
    def _prompt(self, request: Request, answers: Answers) -> bytes:
        """The field that holds the prompt, without a comma."""

    def _text(self, segment: Segment, answers: Answers) -> str:
        answer = answers.get(segment.id)
        return answer.text if answer is not None else _segment_text(segment, self._vocab_size)


class TokenIdBodies(BodyWriter):
    """Prompts as token ids, exactly those that the engine and the simulator see."""

    is_exact = True

    def as_sent(self, request: Request, answers: Answers) -> Request:
        """An answer that is shorter than the recorded one leaves less to send back."""
        if not any(segment.id in answers for segment in request.prompt):
            return request
        segments = (_within(segment, answers.get(segment.id)) for segment in request.prompt)
        return replace(request, prompt=tuple(segment for segment in segments if segment.length))

    def _prompt(self, request: Request, answers: Answers) -> bytes:
        if request.prompt_token_ids is not None:
            return b'"prompt":[%s]' % _joined(request.prompt_token_ids)
        return b'"prompt":[%s]' % b",".join([self._ids(segment, answers) for segment in request.prompt])

    def _ids(self, segment: Segment, answers: Answers) -> bytes:
        answer = answers.get(segment.id)
        if answer is None:
            return _segment_ids(segment, self._vocab_size)
        return _joined(answer.token_ids[segment.start : segment.start + segment.length])


class TextBodies(BodyWriter):
    """Prompts as text, a word for each token: the server's tokenizer decides how many tokens that makes."""

    def _prompt(self, request: Request, answers: Answers) -> bytes:
        if request.prompt_token_ids is not None:
            return b'"prompt":' + json.dumps(token_words(request.prompt_token_ids)).encode()
        return b'"prompt":' + json.dumps(" ".join(self._text(segment, answers) for segment in request.prompt)).encode()


class ChatBodies(BodyWriter):
    """Prompts as messages: segments that are earlier answers are the assistant's, what stands between is the user's."""

    _length_field = "max_completion_tokens"

    def _prompt(self, request: Request, answers: Answers) -> bytes:
        if request.prompt_token_ids is not None:
            messages = [{"role": "user", "content": token_words(request.prompt_token_ids)}]
        else:
            messages = self._messages(request.prompt, answers)
        return b'"messages":' + json.dumps(messages, separators=(",", ":")).encode()

    def _messages(self, segments: tuple[Segment, ...], answers: Answers) -> list[dict[str, str]]:
        messages: list[dict[str, str]] = []
        for segment in segments:
            role = "assistant" if segment.id in self._outputs else "user"
            text = self._text(segment, answers)
            if messages and messages[-1]["role"] == role:
                messages[-1]["content"] += f" {text}"
            else:
                messages.append({"role": role, "content": text})
        return messages


def _within(segment: Segment, answer: Answer | None) -> Segment:
    """What ``answer`` has of a segment that it stands for."""
    if answer is None:
        return segment
    return segment._replace(length=min(segment.length, max(len(answer.token_ids) - segment.start, 0)))


@lru_cache(maxsize=_CACHED_SEGMENTS)
def _segment_ids(segment: Segment, vocab_size: int) -> bytes:
    return _joined(segment_tokens(*segment, vocab_size).tolist())


@lru_cache(maxsize=_CACHED_SEGMENTS)
def _segment_text(segment: Segment, vocab_size: int) -> str:
    return token_words(segment_tokens(*segment, vocab_size).tolist())


def _joined(token_ids: "tuple[int, ...] | list[int]") -> bytes:
    return ",".join(map(str, token_ids)).encode()
