"""From what a client asks for to the pieces of its answers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import count

from libra.engine.record import RequestRecord
from libra.model.tokenizer import Tokenizer
from libra.request import Request
from libra.server.asked import Asked, Prompt
from libra.server.choice import Choice, Piece
from libra.server.engine_client import EngineClient, EngineStopped, Stream
from libra.server.errors import ApiError, bad_field, timed_out, too_long
from libra.server.fields import is_encodable
from libra.server.messages import News
from libra.server.text import AnswerText, Detokenizer

logger = logging.getLogger("libra.server")

# Prompts of more characters than this in all are tokenised in a worker thread, so that nobody else waits for it.
_LONG_TEXT = 2000


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What answers depend on beside the engine. ``max_length``: prompt and answer together."""

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_length: int
    eos_token_ids: frozenset[int]

    def context_length(self, engine: EngineClient, adapter: str | None) -> int:
        """The most tokens that a prompt and its answer can have together, by the model and by the engine's cache."""
        return min(self.max_length, engine.longest_context(adapter))


@dataclass(frozen=True, slots=True)
class Ended:
    """A sequence that is over, for whoever counts."""

    choice: Choice
    prompt: tuple[int, ...]
    record: RequestRecord


class Generation:
    """The answers to one HTTP request: ``n`` to each of its prompts. Open from ``submit`` until ``close``."""

    def __init__(
        self,
        engine: EngineClient,
        model: ServedModel,
        asked: Asked,
        on_end: Callable[[Ended], None],
        timeout_s: float,
    ) -> None:
        """``timeout_s``: what the answers may take from now on."""
        self.asked = asked
        self.deadline_s = asyncio.get_running_loop().time() + timeout_s
        self.choices: list[Choice] = []
        self.prompts: list[tuple[int, ...]] = []
        self._engine = engine
        self._model = model
        self._on_end = on_end
        self._timeout_s = timeout_s
        # None: somebody has ended and had nothing more to say.
        self._pieces: asyncio.Queue[Piece | ApiError | None] = asyncio.Queue()
        self._outlet: Callable[[Piece], bool] = _takes_nothing

    async def tokenise(self, readers: Executor) -> None:
        """Makes token ids of the prompts, with the help of ``readers`` when they are long. Raises ApiError for one that
        is empty or can never fit, and for a token in it, or to stop at, that is not of this model's vocabulary."""
        unknown = max(self.asked.sampling.stop_token_ids, default=0)
        if unknown >= self._model.vocab_size:
            raise bad_field("stop_token_ids", f"{unknown} is beyond the vocabulary of {self._model.vocab_size}")
        texts = [prompt for prompt in self.asked.prompts if isinstance(prompt, str)]
        self._check_lengths(texts)
        if sum(map(len, texts)) > _LONG_TEXT:
            encoded = await asyncio.get_running_loop().run_in_executor(readers, self._encode)
        else:
            encoded = self._encode()
        for tokens in encoded:
            if not tokens:
                raise bad_field("prompt", "is empty")
            if max(tokens) >= self._model.vocab_size:
                raise bad_field("prompt", f"token {max(tokens)} is beyond the vocabulary of {self._model.vocab_size}")
            self.prompts.append(tokens)

    def submit(self, adapter: str | None, arrival_s: float, ids: "count[int]") -> None:
        """Hands everything to the engine. Raises ApiError for what is too long, and 503 when the engine is dead."""
        asked = self.asked
        sampling = asked.sampling
        if not asked.ignore_eos:
            sampling = replace(sampling, stop_token_ids=sampling.stop_token_ids | self._model.eos_token_ids)
        lengths = [self._output_tokens(prompt, adapter) for prompt in self.prompts]
        for number, (prompt, length) in enumerate(zip(self.prompts, lengths, strict=True)):
            for copy in range(asked.n):
                request = Request(
                    next(ids), arrival_s, adapter, length, prompt_token_ids=prompt, cache_salt=asked.cache_salt
                )
                seed = None if sampling.seed is None else sampling.seed + copy
                self._open(number * asked.n + copy, prompt, Stream(request, replace(sampling, seed=seed), self._hear))

    def _open(self, index: int, prompt: tuple[int, ...], stream: Stream) -> None:
        skips = self.asked.skip_special_tokens
        prefix = ""
        if self.asked.echo:
            asked = self.asked.prompts[index // self.asked.n]
            prefix = asked if isinstance(asked, str) else self._model.tokenizer.decode(list(prompt), skips)
        text = AnswerText(Detokenizer(self._model.tokenizer, prompt, skips), self.asked.stops)
        choice = Choice(index, text, stream, prefix)
        try:
            self._engine.submit(stream)
        except EngineStopped as error:
            raise ApiError(503, str(error), "engine_dead") from None
        self.choices.append(choice)

    def divert(self, outlet: Callable[[Piece], bool]) -> None:
        """From now on offers every piece to ``outlet`` as it comes: to wake a task takes longer than to write a piece.
        ``pieces`` gives those it refuses, and all that come until these have been fetched. Nothing is offered any more
        once ``pieces`` has ended, or failed."""
        self._outlet = outlet

    async def pieces(self) -> AsyncIterator[Piece]:
        """The pieces of all answers as they come; ends when the engine has let go of every sequence.

        Raises ApiError as soon as one of the answers cannot be finished, or not in time.
        """
        # One timer for all pieces: a timeout around each would cost as much as writing it.
        loop, late = asyncio.get_running_loop(), timed_out(self._timeout_s)
        timer = loop.call_at(self.deadline_s, self._pieces.put_nowait, late)
        try:
            while not self._pieces.empty() or not all(choice.is_over for choice in self.choices):
                piece = await self._pieces.get()
                if isinstance(piece, ApiError):
                    raise piece
                if piece is not None:
                    yield piece
        finally:
            timer.cancel()
            self._outlet = _takes_nothing

    def close(self) -> None:
        """Ends what is still open."""
        self._outlet = _takes_nothing
        for choice in self.choices:
            if choice.stream.request.id in self._engine.streams:
                self._engine.abort(choice.stream)

    def _hear(self, stream: Stream, news: News) -> None:
        choice = self.choices[stream.request.id - self.choices[0].stream.request.id]
        was_open = choice.finish_reason is None
        try:
            piece = choice.take(news)
            if piece is not None and self._pieces.empty() and self._outlet(piece):
                piece = None
            if piece is not None or choice.is_over:
                self._pieces.put_nowait(piece)
        except ApiError as error:
            self._pieces.put_nowait(error)
        except Exception:  # nobody else would tell the client
            logger.exception("request %d", stream.request.id)
            self._pieces.put_nowait(ApiError(500, "An error in the server; its log says more.", "internal_error"))
        if news.record is not None:
            self._note_end(choice, stream.request, news.record)
        elif was_open and choice.finish_reason is not None:
            self._engine.finish(stream)

    def _note_end(self, choice: Choice, request: Request, record: RequestRecord) -> None:
        try:
            self._on_end(Ended(choice, request.prompt_token_ids or (), record))
        except Exception:  # whoever counts may fail: the engine's connection, where this came from, may not
            logger.exception("the end of request %d", request.id)

    def _output_tokens(self, prompt: tuple[int, ...], adapter: str | None) -> int:
        """How many tokens the answer may have. Raises ApiError when they, or the prompt alone, do not fit."""
        room = self._model.context_length(self._engine, adapter)
        wanted = self.asked.max_tokens
        if len(prompt) >= room:
            raise too_long(f"The prompt has {len(prompt)} tokens; prompt and answer can have {room} together.")
        if wanted is None:
            return room - len(prompt)
        if len(prompt) + wanted > room:
            raise ApiError(
                400,
                f"max_tokens: {wanted} after a prompt of {len(prompt)} tokens is beyond the {room} that fit together",
                "context_length_exceeded",
                "max_tokens",
            )
        return wanted

    def _check_lengths(self, texts: list[str]) -> None:
        """Raises ApiError for one that is too long whatever its tokens are, before it costs anything."""
        limit = self._model.max_length
        longest = max(map(len, texts), default=0)
        if longest > limit * self._model.tokenizer.longest_token:
            raise too_long(f"The prompt has {longest} characters; prompt and answer can have {limit} tokens together.")

    def _encode(self) -> list[tuple[int, ...]]:
        return [self._token_ids(prompt) for prompt in self.asked.prompts]

    def _token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return prompt
        if not is_encodable(prompt):
            raise bad_field("prompt", "holds half of a surrogate pair")
        return tuple(self._model.tokenizer.encode(prompt, self.asked.add_special_tokens))


def _takes_nothing(_: Piece) -> bool:
    return False
