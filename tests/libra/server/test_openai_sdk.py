"""OpenAI's own Python client against the server."""

import asyncio
from typing import Any

import openai
import pytest

from tests.libra.server.running import BASE, Running

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(served: Running) -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_the_client_lists_completes_and_chats(client: Any, served: Running) -> None:
    assert [model.id for model in client.models.list()][:2] == [BASE, "adapter-00"]
    assert client.models.retrieve("adapter-01").id == "adapter-01"
    asked: dict[str, Any] = {"model": "adapter-01", "max_tokens": 5, "temperature": 0}
    completion = client.completions.create(prompt="abc", logprobs=2, **asked)
    assert completion.choices[0].text == served.complete(model="adapter-01", max_tokens=5).text
    assert len(completion.choices[0].logprobs.token_logprobs) == completion.usage.completion_tokens
    chat = client.chat.completions.create(messages=MESSAGES, n=2, logprobs=True, top_logprobs=2, **asked)
    assert chat.choices[0].message.content == chat.choices[1].message.content
    assert chat.usage.prompt_tokens_details.cached_tokens >= 0


def test_the_client_streams(client: Any, served: Running) -> None:
    stream = client.chat.completions.create(
        model=BASE, messages=MESSAGES, max_completion_tokens=6, temperature=0, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )  # fmt: skip
    *chunks, last = list(stream)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == served.chat("hello", ignore_eos=True).text
    )
    assert (last.choices, last.usage.completion_tokens) == ([], 6)


def test_the_client_knows_the_errors(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="adaptor-01", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model=BASE, prompt="a", temperature=-1)
    assert bad.value.param == "temperature"


def test_the_asynchronous_client_streams_many_and_leaves_early(served: Running) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:

            async def one(number: int) -> str:
                asked: dict[str, Any] = {
                    "model": f"adapter-{number % 5:02d}",
                    "prompt": [number + 1] * 5,
                    "temperature": 0,
                }
                stream = await client.completions.create(**asked, max_tokens=200 if number % 2 else 8, stream=True)
                text = ""
                async for chunk in stream:
                    text += chunk.choices[0].text
                    if number % 2:
                        await stream.close()
                        break
                return text

            return await asyncio.gather(*(one(number) for number in range(12)))

    texts = asyncio.run(main())
    for number in range(0, 12, 2):
        whole = served.complete(model=f"adapter-{number % 5:02d}", prompt=[number + 1] * 5, max_tokens=8)
        assert texts[number] == whole.text
