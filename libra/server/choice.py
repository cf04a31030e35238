"""One answer under way: tokens in, text out."""

from dataclasses import dataclass, field
from typing import Literal

from libra.engine.record import RequestRecord
from libra.engine.sequence import NOT_FINITE, TokenLogprobs
from libra.server.engine_client import Stream
from libra.server.errors import ApiError, too_long
from libra.server.messages import News
from libra.server.text import AnswerText

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to the answer numbered ``index``. ``finish_reason`` comes with its last piece."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True, eq=False)
class Choice:
    """``num_tokens`` counts what is part of the answer; what the engine computes beyond a stop string is not.
    ``is_over``: nothing more will come. ``record`` is what the engine tells then, None when it died before it could."""

    index: int
    text: AnswerText
    stream: Stream
    prefix: str = ""
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    is_over: bool = False
    record: RequestRecord | None = None
    tokens: list[int] = field(default_factory=list)

    def take(self, news: News) -> Piece | None:
        """The piece that ``news`` makes; None when it is news of a finished answer. Raises ApiError for a fault."""
        if news.record is not None or news.fault is not None:
            self.record, self.is_over = news.record, True
        if self.finish_reason is not None:
            return None
        if news.fault is not None:
            raise _as_error(news)
        text, self.prefix = self.prefix, ""
        taken: list[int] = []
        for token in news.tokens:
            taken.append(token)
            if news.stopped and len(taken) == len(news.tokens):
                break  # a stop token ends the answer and is no part of its text
            text += self.text.add(token)
            if self.text.met is not None:
                break
        if self.text.met is None and news.record is not None:
            text += self.text.finish()
            self._end("stop" if news.stopped else "length", taken[-1] if news.stopped else None)
        if self.text.met is not None:
            self._end("stop", self.text.met)
        self.num_tokens += len(taken)
        self.tokens += taken
        return Piece(self.index, text, taken, news.logprobs[: len(taken)], self.finish_reason, self.stop_reason)

    def _end(self, reason: FinishReason, stop_reason: str | int | None) -> None:
        self.finish_reason, self.stop_reason = reason, stop_reason


def _as_error(news: News) -> ApiError:
    record, reason = news.record, news.fault or ""
    if record is None:
        return ApiError(503, reason, "engine_dead")
    if record.status == "rejected":
        return too_long(f"The request can never run: it {reason}.")
    if reason == NOT_FINITE:
        return ApiError(500, f"No answer can be computed: {reason}.", "output_not_finite", "model")
    if record.status == "failed":
        return ApiError(500, f"The adapter could not be loaded: {reason}", "adapter_load_failed", "model")
    return ApiError(503, "The server is shutting down.", "shutting_down")
