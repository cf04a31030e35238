"""What a server sent for one request, read from the stream of an OpenAI-compatible API."""

import asyncio
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.replay.faults import Fault, FaultKind, HttpFault
from bench.replay.http import Head
from bench.replay.refusal import error_detail, error_message, plain_fault
from bench.replay.server_info import ServerTimes, server_times
from bench.replay.sse import EventStream
from bench.replay.token_event import TokenEvent

MAX_ERROR_BYTES = 1 << 16
_END_OF_STREAM = b"[DONE]"
# Why an answer that never came to its end has ended: what vLLM and SGLang say, then TensorRT-LLM.
_BROKEN_OFF = frozenset({"abort", "error", "cancelled", "timeout"})
# Without the search for the encoding that json.loads makes of bytes: this runs once per token.
_parse_json = json.JSONDecoder().decode


@dataclass(slots=True)
class Answer:
    """One attempt at one request. Times are of ``time.monotonic``; ``token_times`` has one entry per event with tokens.

    Counts are what the server's ``usage`` says, None where it does not; ``streamed_tokens`` is counted here, exactly
    when the server sends token ids (``has_token_ids``), else one per event; ``silent_events`` of those had no text.
    ``fault`` None means a whole answer.
    """

    sent_s: float
    fault: Fault | None = None
    token_times: "array[float]" = field(default_factory=lambda: array("d"))
    streamed_tokens: int = 0
    silent_events: int = 0
    has_token_ids: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    server_times: ServerTimes | None = None
    finish_reason: str | None = None
    text: str = ""
    token_ids: tuple[int, ...] = ()

    @property
    def output_tokens(self) -> int:
        """What the server counted, or else what was streamed."""
        return self.streamed_tokens if self.completion_tokens is None else self.completion_tokens


class AnswerReader:
    """Reads one response into ``answer`` and resolves ``finished`` when it has ended, well or not.

    ``keep`` also gathers the text and the token ids, for turns that send them back.
    """

    def __init__(self, sent_s: float, keep: bool = False) -> None:
        self.answer = Answer(sent_s)
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events: EventStream | None = None
        self._head: Head | None = None
        self._plain = b""
        self._token_event = TokenEvent()
        self._done = False
        self._last_piece_s = sent_s
        self._silent_times = array("d")  # of events without text that came before any with text
        self._keep = keep
        self._texts: list[str] = []
        self._token_ids: list[int] = []

    def on_head(self, head: Head) -> None:
        self._head = head
        content_type = head.headers.get("content-type", "")
        if head.status == 200 and content_type.startswith("text/event-stream"):
            self._events = EventStream()

    def on_body(self, data: bytes, now_s: float) -> None:
        if self._events is None:
            self._plain += data[: MAX_ERROR_BYTES - len(self._plain)]
            return
        self._last_piece_s = now_s
        texts = self._token_event.texts(data) if self._events.is_between_events else None
        if texts is None:
            self._read_events(self._events, self._events.feed(data), now_s, data)
        else:
            for text in texts:
                self._take_token(text, now_s)

    def on_end(self, fault: Fault | None) -> None:
        answer = self.answer
        if self._events is not None and not self._done:
            try:
                self._read_events(self._events, self._events.close(), self._last_piece_s)
            except HttpFault as error:
                fault = fault or Fault(FaultKind.MALFORMED, str(error))
        self._settle_silence()
        answer.fault = answer.fault or self._judge(fault)
        answer.text, answer.token_ids = "".join(self._texts), tuple(self._token_ids)
        if not self.finished.done():
            self.finished.set_result(None)

    def _settle_silence(self) -> None:
        """Takes the events without text that came before any with text as tokens where they must be some: there were as
        many events as the server counts tokens, or no other ones. Else the server announced its answer."""
        answer, num_silent = self.answer, len(self._silent_times)
        if answer.token_times and answer.completion_tokens != num_silent + len(answer.token_times):
            return
        if answer.completion_tokens != 0 and not answer.has_token_ids:
            answer.token_times = self._silent_times + answer.token_times
            answer.streamed_tokens += num_silent
            answer.silent_events += num_silent

    def _judge(self, fault: Fault | None) -> Fault | None:
        """The fault of a response that has ended; ``fault`` is the connection's."""
        if self._head is None or self._events is None:
            return fault if fault is not None or self._head is None else plain_fault(self._head, self._plain)
        answer, reason = self.answer, self.answer.finish_reason
        if reason in _BROKEN_OFF:
            return Fault(FaultKind.ERROR_EVENT, f"finish_reason is {reason}")
        if fault is not None and not self._done:
            return fault
        if not answer.token_times and (self._done or reason is not None):
            return Fault(FaultKind.EMPTY, f"usage says {answer.output_tokens}")
        if reason is None:
            text = f"the stream ended after {answer.streamed_tokens} tokens, without a finish_reason"
            return Fault(FaultKind.CUT_SHORT, text)
        return None  # with or without [DONE]: some servers close the stream instead

    def _read_events(self, stream: EventStream, events: Sequence[bytes], now_s: float, piece: bytes = b"") -> None:
        """Reads what ``stream`` made of ``piece``."""
        for event in events:
            self._read_event(event, now_s, piece)
        if stream.error is not None and self.answer.fault is None:
            self.answer.fault = Fault(FaultKind.ERROR_EVENT, error_detail(stream.error))

    def _read_event(self, event: bytes, now_s: float, piece: bytes = b"") -> None:
        """Reads an event that may be anything; ``piece`` is the part of the stream it came in."""
        plain = self._token_event.text(event)
        if plain is not None:
            self._take_token(plain, now_s)
            return
        if event == _END_OF_STREAM:
            self._done = True
            return
        try:
            document = _parse_json(event.decode())
        except ValueError:  # of JSON or of UTF-8
            raise HttpFault(f"an event that is not JSON: {event[:60]!r}") from None
        if type(document) is not dict:
            raise HttpFault(f"an event that is no object: {event[:60]!r}")
        if document.get("error") is not None or document.get("object") == "error":
            self.answer.fault = Fault(FaultKind.ERROR_EVENT, error_message(document.get("error") or document))
            return
        choices, usage = document.get("choices"), document.get("usage")
        if usage:
            self._read_usage(usage)
        if choices:
            text = self._read_choice(choices[0], now_s)
            if text and len(choices) == 1 and not usage and "metrics" not in document:
                self._token_event.learn(event, text, piece)
        if (metrics := document.get("metrics")) is not None and self.answer.server_times is None:
            self.answer.server_times = server_times({"metrics": metrics})

    def _take_token(self, text: bytes, now_s: float) -> None:
        self.answer.token_times.append(now_s)
        self.answer.streamed_tokens += 1
        if self._keep:
            self._texts.append(text.decode())

    def _read_choice(self, choice: Mapping[str, Any], now_s: float) -> str | None:
        """Takes in one piece of the answer. Returns its text when it is that of one token and tells nothing else.

        A piece counts as tokens when it carries text or token ids, and after the first of those also when it is empty,
        because a tokenizer holds back half a character; the announcement of the role and the mere end of the answer do
        not count.
        """
        answer = self.answer
        delta = choice.get("delta")
        if delta is None:
            text, is_frame = choice.get("text"), False
        else:
            text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
            is_frame = "role" in delta
        reason = choice.get("finish_reason") or None  # "" of an SGLang server is null
        token_ids = choice.get("token_ids")
        if reason is not None:
            answer.finish_reason = str(reason)
        if not text and not token_ids:
            if not (is_frame or reason is not None or answer.has_token_ids):
                self._take_silence(now_s)
            return None
        answer.token_times.append(now_s)
        if token_ids:
            answer.has_token_ids = True
            answer.streamed_tokens += len(token_ids)
        else:
            answer.streamed_tokens += 1
        if self._keep:
            self._texts.append(text or "")
            self._token_ids += token_ids or ()
        return text if isinstance(text, str) and reason is None and not token_ids else None

    def _take_silence(self, now_s: float) -> None:
        """Takes in a piece that is half a character or, before the first text, perhaps an announcement."""
        answer = self.answer
        if answer.token_times:
            answer.token_times.append(now_s)
            answer.streamed_tokens += 1
            answer.silent_events += 1
        elif answer.completion_tokens != 0:  # as far as the server has counted
            self._silent_times.append(now_s)

    def _read_usage(self, usage: Mapping[str, Any]) -> None:
        answer = self.answer
        answer.prompt_tokens = usage.get("prompt_tokens")
        answer.completion_tokens = usage.get("completion_tokens")
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        answer.server_times = server_times(usage) or answer.server_times
