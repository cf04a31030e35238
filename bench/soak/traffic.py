"""The mixture of requests: answers that are checked, clients that leave, nonsense, adapters that come and go."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

import aiohttp

from bench.soak.api import Answered, Api
from bench.soak.expected import Expected
from bench.soak.tally import Tally, difference

# Shares of the mixture. A fresh prompt has an answer nobody knows, and its length is checked.
CHECKED, FRESH, LEAVING, MALFORMED = 0.7, 0.1, 0.12, 0.08
MAX_FRESH_TOKENS = 120
# How long an adapter that comes and goes stays at most.
MAX_USE_S = 0.2
# What a client that will leave asks for, and how long it stays at most.
_LEAVING_TOKENS, _STAY_S = 300, 1.0
_NONSENSE = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[1, 2]",
    b'{"model": "nobody", "prompt": "x"}',
    b'{"model": "%(model)s"}',
    b'{"model": "%(model)s", "prompt": []}',
    b'{"model": "%(model)s", "prompt": [99999999]}',
    b'{"model": "%(model)s", "prompt": "x", "max_tokens": -1}',
    b'{"model": "%(model)s", "prompt": "x", "temperature": "hot"}',
    b'{"model": "%(model)s", "prompt": "x", "max_tokens": 100000000}',
)


class Traffic:
    """Sends one request of the mixture at a time; everything that comes back is judged into ``tally``."""

    def __init__(
        self, api: Api, expected: Sequence[Expected], tally: Tally, deadline_s: float, vocab_size: int, seed: int
    ) -> None:
        self._api = api
        self._expected = expected
        self._tally = tally
        self._deadline_s = deadline_s
        self._vocab_size = vocab_size
        self._rng = random.Random(seed)

    async def send_one(self) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [self.checked, self.fresh, self.leaving, self.malformed]
        (kind,) = self._rng.choices(kinds, (CHECKED, FRESH, LEAVING, MALFORMED))
        await self._within_deadline(kind.__name__, kind())

    async def checked(self, expected: Expected | None = None, model: str | None = None) -> None:
        """Some part of a known answer; ``model`` is another name of its adapter."""
        known = expected or self._rng.choice(self._expected)
        start = self._rng.randrange(len(known.tokens))
        prompt, tokens = known.part(start, self._rng.randint(1, len(known.tokens) - start))
        model = model or known.model
        answered = await self._complete(model=model, prompt=prompt, max_tokens=len(tokens))
        if self._is_answer(answered, len(tokens), model):
            differs = difference(tokens, answered.tokens or [])
            if differs is None:
                self._tally.count("checked")
            else:
                self._tally.breach("wrong tokens", f"{model}, prompt of {len(prompt)}: {differs}")

    async def fresh(self) -> None:
        """A prompt nobody has sent."""
        rng, model = self._rng, self._rng.choice(self._expected).model
        prompt = [rng.randrange(1, self._vocab_size) for _ in range(rng.randint(1, MAX_FRESH_TOKENS))]
        length = rng.randint(1, MAX_FRESH_TOKENS)
        answered = await self._complete(model=model, prompt=prompt, max_tokens=length)
        if self._is_answer(answered, length, model):
            self._tally.count("fresh")

    async def leaving(self) -> None:
        """A client that goes away at some moment, before its answer if it can."""
        rng = self._rng
        model, prompt = rng.choice(self._expected).model, [rng.randrange(1, self._vocab_size) for _ in range(40)]
        try:
            async with asyncio.timeout(rng.random() ** 2 * _STAY_S):
                await self._complete(model=model, prompt=prompt, max_tokens=_LEAVING_TOKENS)
        except TimeoutError:
            self._tally.count("left")
        else:
            self._tally.count("left too late")

    async def malformed(self) -> None:
        model = self._rng.choice(self._expected).model.encode()
        body = self._rng.choice(_NONSENSE).replace(b"%(model)s", model)
        status, text = await self._api.post("/v1/completions", body)
        if 400 <= status < 500:
            self._tally.count("malformed")
        else:
            self._tally.breach("nonsense not refused", f"{status} for {body!r}: {text[:100]}")

    async def come_and_go(self, name: str, path: str, expected: Sequence[Expected]) -> None:
        """Loads the adapter at ``path`` under a new name, uses it, and unloads it while it is in use."""
        status, text = await self._api.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        if status != 200:
            self._tally.breach("adapter not loaded", f"{name}: {status} {text[:200]}")
            return
        asked = [asyncio.create_task(self.checked(known, name)) for known in self._rng.choices(expected, k=2)]
        try:
            await asyncio.sleep(self._rng.random() * MAX_USE_S)
            status, text = await self._api.post("/v1/unload_lora_adapter", {"lora_name": name})
            await asyncio.gather(*asked)
        finally:
            for task in asked:
                task.cancel()
        if status != 200:
            self._tally.breach("adapter not unloaded", f"{name}: {status} {text[:200]}")
            return
        self._tally.count("adapter came and went")
        answered = await self._api.complete(model=name, prompt=[1], max_tokens=1)
        if answered.status != 404:
            self._tally.breach("unloaded adapter answers", f"{name}: {answered.status}")

    async def churn(self, adapters: Sequence[tuple[str, str]], every_s: float, until_s: float) -> None:
        """Has adapters come and go, under a new name each time, until ``until_s`` of ``time.monotonic``.

        ``adapters`` are names with their directories; with none this does nothing.
        """
        for number in count():
            if not adapters or time.monotonic() >= until_s:
                return
            model, path = self._rng.choice(adapters)
            expected = [known for known in self._expected if known.model == model]
            await self._within_deadline("churn", self.come_and_go(f"guest-{number}", path, expected))
            await asyncio.sleep(every_s)

    async def _complete(self, **body: object) -> Answered:
        return await self._api.complete(**body, stream=self._rng.random() < 0.5)

    def _is_answer(self, answered: Answered, num_tokens: int, model: str) -> bool:
        """Whether the reply is a whole answer of the right length. A full queue is counted; the rest are breaches."""
        if answered.status == 429 or (answered.status == 404 and model.startswith("guest-")):
            self._tally.count("refused: queue full" if answered.status == 429 else "refused: adapter unloaded")
        elif answered.status != 200:
            self._tally.breach("failed", f"{answered.status} {answered.body[:200]}")
        elif answered.tokens is None:
            self._tally.breach("cut short", f"{model}: {answered.body[-200:]!r}")
        elif not len(answered.tokens) == answered.completion_tokens == num_tokens:
            told = f"{len(answered.tokens)} tokens, usage says {answered.completion_tokens}"
            self._tally.breach("wrong count", f"{model}: {told}, asked for {num_tokens}")
        else:
            return True
        return False

    async def _within_deadline(self, what: str, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._deadline_s):
                await work
        except TimeoutError:
            self._tally.breach("hung", f"{what}: no end in {self._deadline_s:g} s")
        except aiohttp.ClientError as error:
            self._tally.breach("connection failed", f"{what}: {type(error).__name__}: {error}")
