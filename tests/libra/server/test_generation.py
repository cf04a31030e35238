"""The answers to one request, over an engine that the test plays."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from libra.engine.record import RequestRecord
from libra.model.tokenizer import Tokenizer
from libra.server.answers import CompletionShape
from libra.server.asked import Asked, StreamOptions
from libra.server.choice import Piece
from libra.server.engine_client import EngineClient
from libra.server.errors import ApiError
from libra.server.generation import Ended, Generation, ServedModel
from libra.server.messages import News, frame
from libra.server.text import StopStrings

MAX_LENGTH = 100


class Words(Tokenizer):
    """Token t is the word " wt"; a text does not begin with a space, as Llama 2's decoder has it."""

    def __init__(self) -> None:
        """Reads no file."""
        self.longest_token = 4

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [int(word.removeprefix("w")) for word in text.split()]

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(f" w{token}" for token in tokens).removeprefix(" ")


class PlayedEngine(EngineClient):
    """Computes nothing; ``tell`` says what is heard of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ready.set_result(None)

    def longest_context(self, adapter: str | None) -> int:
        return 10 * MAX_LENGTH

    def tell(self, number: int, *tokens: int, ends_as: str | None = None) -> None:
        """News of a request; ``ends_as``: its record's status."""
        record = None
        if ends_as is not None:
            record = RequestRecord(number, None, None, 0.0, 2, len(tokens), status=ends_as)
        fault = None if ends_as in (None, "finished") else "because"
        self.data_received(frame([News(number, list(tokens), [], record, fault=fault)]))


class CountingPool(ThreadPoolExecutor):
    """Counts what it is given."""

    num_given = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.num_given += 1
        return super().submit(*args, **kwargs)


def asked(*prompts: str | tuple[int, ...], **changes: Any) -> Asked:
    return Asked("completion", "m", prompts or ((1, 2),), True, 50, **changes)


def answering(to: Asked, on_end: Callable[[Ended], None] = lambda _: None, timeout_s: float = 5.0) -> Generation:
    return Generation(PlayedEngine(), ServedModel("m", Words(), 1000, MAX_LENGTH, frozenset()), to, on_end, timeout_s)


@asynccontextmanager
async def opened(
    to: Asked, on_end: Callable[[Ended], None] = lambda _: None, timeout_s: float = 5.0
) -> AsyncIterator[tuple[PlayedEngine, Generation]]:
    """Answers under way; the requests are numbered from 0."""
    generation = answering(to, on_end, timeout_s)
    engine = generation._engine
    assert isinstance(engine, PlayedEngine)
    with ThreadPoolExecutor(1) as readers:
        await generation.tokenise(readers)
    generation.submit(None, 0.0, count())
    yield engine, generation
    generation.close()


async def all_of(generation: Generation) -> list[Piece]:
    return [piece async for piece in generation.pieces()]


def test_an_answer_that_is_whole_outlives_the_engine() -> None:
    async def scenario() -> None:
        async with opened(asked(stops=StopStrings(("w7",)))) as (engine, generation):
            engine.tell(0, 5)
            engine.tell(0, 7)
            engine.connection_lost(None)
            async with asyncio.timeout(10.0):
                pieces = await all_of(generation)
            document = CompletionShape("x", 0, "m", generation, Words()).whole(pieces)
            assert document["choices"][0]["text"] == " w5 "
            assert document["choices"][0]["finish_reason"] == "stop"
            assert document["usage"]["completion_tokens"] == 2
            assert "libra" not in document["usage"], "nobody is left to tell"

    asyncio.run(scenario())


def test_an_answer_that_is_not_ends_with_the_engine() -> None:
    async def scenario() -> None:
        async with opened(asked()) as (engine, generation):
            engine.tell(0, 5)
            engine.connection_lost(None)
            async with asyncio.timeout(10.0):
                with pytest.raises(ApiError, match="has ended"):
                    await all_of(generation)

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["late", "failed", "closed"])
def test_nothing_is_written_after_the_end_of_a_stream(fault: str) -> None:
    async def scenario() -> None:
        written: list[Piece] = []

        def write(piece: Piece) -> bool:
            written.append(piece)
            return True

        stream = asked(n=2, options=StreamOptions(stream=True))
        async with opened(stream, timeout_s=0.05 if fault == "late" else 5.0) as (engine, generation):
            reading = asyncio.create_task(all_of(generation))
            await asyncio.sleep(0)
            generation.divert(write)
            engine.tell(1, 5)
            assert len(written) == 1
            if fault == "failed":
                engine.tell(0, ends_as="failed")
            if fault == "closed":
                generation.close()
                reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            engine.tell(1, 6)  # of the step that was under way
            assert len(written) == 1

    asyncio.run(scenario())


def test_whoever_counts_may_fail_without_the_engine_s_connection(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Ended) -> None:
        raise OSError("no space left")

    async def scenario() -> None:
        async with opened(asked(), fail) as (engine, generation):
            engine.tell(0, 5, ends_as="finished")
            (piece,) = await all_of(generation)
            assert (piece.token_ids, piece.finish_reason) == ([5], "length")
            assert engine.failure is None

    asyncio.run(scenario())
    assert "no space left" in caplog.text


@pytest.mark.parametrize("prompt", [(1, 2), "w1 w2"])
def test_an_answer_goes_on_where_its_echoed_prompt_ends(prompt: str | tuple[int, ...]) -> None:
    async def scenario() -> None:
        async with opened(asked(prompt, echo=True)) as (engine, generation):
            engine.tell(0, 5)
            engine.tell(0, 6, ends_as="finished")
            assert "".join(piece.text for piece in await all_of(generation)) == "w1 w2 w5 w6"

    asyncio.run(scenario())


def test_long_prompts_are_tokenised_aside_all_at_once() -> None:
    async def scenario() -> None:
        with CountingPool(1) as readers:
            for prompts, num_given in (["w1"] * 9, 0), (["w1 " * 90] * 9, 1):
                generation = answering(asked(*prompts))
                await generation.tokenise(readers)
                assert generation.prompts == [tuple([1] * prompt.count("w1")) for prompt in prompts]
                assert readers.num_given == num_given

    asyncio.run(scenario())


def test_what_is_too_long_for_any_tokens_is_not_tokenised() -> None:
    async def scenario() -> None:
        with CountingPool(1) as readers:
            for num_characters in (4 * MAX_LENGTH, 4 * MAX_LENGTH + 1):
                generation = answering(asked("w1", "w1".ljust(num_characters)))
                if num_characters == 4 * MAX_LENGTH:
                    await generation.tokenise(readers)
                    continue
                with pytest.raises(ApiError, match="401 characters") as raised:
                    await generation.tokenise(readers)
                assert raised.value.status == 413
                assert not generation.prompts

    asyncio.run(scenario())
