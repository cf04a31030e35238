"""The server's state and what it does for each endpoint, apart from HTTP."""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import blake2b
from itertools import count
from typing import Any

from libra import __version__
from libra.server.adapters import AdapterCatalog
from libra.server.answers import AnswerShape, ChatShape, CompletionShape
from libra.server.asked import Asked
from libra.server.chat_template import ChatTemplate
from libra.server.engine_actions import check_cache
from libra.server.engine_client import EngineClient, EngineStopped
from libra.server.errors import ApiError, timed_out
from libra.server.generation import Ended, Generation, ServedModel
from libra.server.metrics import ServerMetrics
from libra.server.request_log import RequestLog
from libra.server.settings import ServerSettings
from libra.server.stats import RecentParts

logger = logging.getLogger("libra.server")

_POLL_S = 0.02
_NUM_READERS = 4


class Server:
    """Everything one server knows. ``room``: the most answers under way and waiting. ``draining``: nothing new is taken
    on. ``readers``: threads for long texts and bodies, few, and no one else's, so that these keep only each other
    waiting."""

    def __init__(
        self,
        settings: ServerSettings,
        engine: EngineClient,
        policy_name: str,
        room: int,
        model: ServedModel,
        adapters: AdapterCatalog,
        template: ChatTemplate,
        request_log: RequestLog | None = None,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.policy_name = policy_name
        self.model = model
        self.adapters = adapters
        self.template = template
        self.metrics = ServerMetrics(engine, model.name)
        self.recent_parts = RecentParts()
        self.draining = False
        self.readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="reader")
        self._secret = secrets.token_bytes(32)
        self._num_open = 0
        self._num_coming = 0
        self._room = room
        self._request_log = request_log
        self._ids = count()
        self._started_at = int(time.time())

    @asynccontextmanager
    async def generate(self, asked: Asked, session: str | None) -> AsyncIterator[tuple[Generation, AnswerShape]]:
        """The answers to a request, under way; whatever is left of them is ended on exit. Raises ApiError."""
        self.check_open()
        arrived_at, arrival_s = time.time(), self.engine.now_s()
        asked = replace(asked, cache_salt=self._salt(asked))

        def note_end(ended: Ended) -> None:
            self.metrics.observe(ended)
            self.recent_parts.add(ended.record)
            if self._request_log is not None and not self._request_log.write(ended, arrived_at, session):
                self.metrics.count_unlogged()

        generation = Generation(self.engine, self.model, asked, note_end, self.settings.request_timeout_s)
        kind = ChatShape if asked.kind == "chat" else CompletionShape
        shape = kind(uuid.uuid4().hex, int(arrived_at), asked.model, generation, self.model.tokenizer)
        self._num_open += 1
        try:
            adapter = await self._prepare(generation)
            # From here to the engine nothing waits, so what was checked holds.
            self.check_open()
            generation.submit(adapter, arrival_s, self._ids)
            yield generation, shape
        finally:
            self._num_open -= 1
            generation.close()

    async def _prepare(self, generation: Generation) -> str | None:
        """Makes tokens of the prompts, while room is kept for the answers; returns the adapter. Raises ApiError."""
        asked = generation.asked
        wanted = len(asked.prompts) * asked.n
        self._check_room(wanted)
        self._num_coming += wanted
        try:
            async with asyncio.timeout_at(generation.deadline_s):
                await self.adapter(asked.model)  # before any work for one that is unknown
                await generation.tokenise(self.readers)
                return await self.adapter(asked.model)
        except TimeoutError:
            raise timed_out(self.settings.request_timeout_s) from None
        finally:
            self._num_coming -= wanted

    def check_open(self) -> None:
        """Raises ApiError 503 when nothing can be computed any more."""
        if self.engine.failure is not None:
            raise ApiError(503, self.engine.failure, "engine_dead")
        if self.draining:
            raise ApiError(503, "The server is shutting down.", "shutting_down", headers={"Retry-After": "10"})

    def _check_room(self, wanted: int) -> None:
        if wanted > self._room:
            raise ApiError(400, f"{wanted} answers at a time are more than the {self._room} that this server takes on.")
        if len(self.engine.streams) + self._num_coming + wanted > self._room:
            raise ApiError(429, "The queue is full; try again later.", "queue_full", headers={"Retry-After": "1"})

    def _salt(self, asked: Asked) -> str:
        """The same for requests that may share KV. Secret, also where all may: a block's label is quick to forge for
        whoever knows what its chain starts from, and then KV made for other tokens would serve somebody's prompt."""
        told = ""
        if asked.cache_salt is not None:
            told = f"salt:{asked.cache_salt}"
        elif self.settings.cache_salt == "user":
            told = f"user:{asked.user or ''}"
        return blake2b(told.encode(), key=self._secret, digest_size=16).hexdigest()

    async def adapter(self, name: str) -> str | None:
        """The adapter that a model's name stands for, None for the base model. Raises ApiError 404."""
        return None if name == self.model.name else await self.adapters.find(name, self.model.name)

    def cards(self) -> list[dict[str, Any]]:
        """The base model and its adapters as /v1/models lists them."""
        base = self._card(None, self.model.name)
        base["libra"] = {
            "version": __version__,
            "vocab_size": self.model.vocab_size,
            "policy": self.policy_name,
            "device": self.engine.device,
        }
        return [base, *(self._card(name, str(path)) for name, path in self.adapters.paths.items())]

    def _card(self, adapter: str | None, root: str) -> dict[str, Any]:
        return {
            "id": adapter or self.model.name,
            "object": "model",
            "created": self._started_at,
            "owned_by": "libra",
            "root": root,
            "parent": None if adapter is None else self.model.name,
            "max_model_len": self.model.context_length(self.engine, adapter),
        }

    async def drain(self, has_unsent: Callable[[], bool]) -> bool:
        """Takes on nothing new and waits for what is open, and until no client ``has_unsent`` answers to read, for as
        long as the settings say. Whether all ended well, and the cache adds up."""
        self.draining = True
        deadline_s = time.monotonic() + self.settings.drain_timeout_s
        while (is_open := self._is_open() or has_unsent()) and time.monotonic() < deadline_s:
            await asyncio.sleep(_POLL_S)
        for stream in list(self.engine.streams.values()):
            self.engine.abort(stream)
        while self.engine.streams and self.engine.failure is None and time.monotonic() < deadline_s + 5.0:
            await asyncio.sleep(_POLL_S)
        return not is_open and await self._adds_up()

    def _is_open(self) -> bool:
        return bool(self.engine.streams or self._num_open)

    async def _adds_up(self) -> bool:
        """Whether every block, pin and claim is accounted for now that nobody uses any; the log says what is not."""
        try:
            await self.engine.call(check_cache)
        except EngineStopped:
            return False
        except AssertionError:
            logger.exception("the cache does not add up")
            return False
        return True

    def close(self) -> None:
        """Lets go of the engine, which ends it."""
        self.engine.close()
        self.readers.shutdown(wait=False, cancel_futures=True)
        if self._request_log is not None:
            self._request_log.close()
