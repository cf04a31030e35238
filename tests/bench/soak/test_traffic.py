"""The judge of a soak, against a server that lies."""

import asyncio
import json
import random
from typing import Any

from aiohttp import ClientSession, web

from bench.soak.api import Answered, Api
from bench.soak.expected import Expected, compute_expected, num_clear
from bench.soak.tally import Tally, difference
from bench.soak.traffic import Traffic

KNOWN = Expected("base", (1, 2, 3), tuple(range(10, 30)))


class Liar:
    """Answers as a model that counts up from 10 after the prompt 1, 2, 3; ``lie`` spoils the answer."""

    def __init__(self, lie: str = "") -> None:
        self.lie = lie

    async def complete(self, request: web.Request) -> web.Response:
        try:
            body: dict[str, Any] = await request.json()
        except ValueError:
            body = {}
        if not isinstance(body, dict) or body.get("model") != "base" or not 0 < body.get("max_tokens", 0) <= 100:
            return web.Response(status=200 if self.lie == "takes anything" else 400)
        if self.lie == "hangs":
            await asyncio.sleep(30)
        start, count = 10 + len(body["prompt"]) - 3, body["max_tokens"]
        tokens = list(range(start, start + count))
        if self.lie == "loses one":
            del tokens[-1]
        elif self.lie == "repeats one":
            tokens.append(tokens[-1])
        elif self.lie == "other token":
            tokens[-1] = 99
        usage = {"completion_tokens": count}
        if not body["stream"]:
            return web.json_response({"choices": [{"token_ids": tokens}], "usage": usage})
        choices: list[dict[str, Any]] = [{"token_ids": [token], "finish_reason": None} for token in tokens]
        choices[-1:] = [{"token_ids": tokens[-1:], "finish_reason": "length"}] if tokens else []
        events = [{"choices": [choice]} for choice in choices] + [{"choices": [], "usage": usage}]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        if self.lie != "no end":
            lines.append("data: [DONE]\n\n")
        return web.Response(text="".join(lines))


def judged(lie: str, kind: str = "checked", times: int = 20, deadline_s: float = 5.0) -> Tally:
    async def run() -> Tally:
        app, tally = web.Application(), Tally()
        app.router.add_post("/v1/completions", Liar(lie).complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with ClientSession() as session:
            api = Api(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
            traffic = Traffic(api, [KNOWN], tally, deadline_s, vocab_size=50, seed=1)
            for _ in range(times):
                await traffic._within_deadline(kind, getattr(traffic, kind)())
        await runner.cleanup()
        return tally

    return asyncio.run(run())


def test_an_honest_server_has_no_breach() -> None:
    tally = judged("")
    assert (tally.counts["checked"], tally.num_breaches) == (20, 0)
    assert judged("", "malformed").counts == {"malformed": 20}


def test_every_lie_is_a_breach() -> None:
    for lie in ("loses one", "repeats one", "other token"):
        assert judged(lie).num_breaches == 20, lie
    # Only streams have an end that can be missing.
    assert 0 < judged("no end").counts["cut short"] < 20
    assert judged("takes anything", "malformed").counts["nonsense not refused"] > 0


def test_a_request_without_end_hangs() -> None:
    tally = judged("hangs", times=1, deadline_s=0.1)
    assert tally.counts == {"hung": 1}


def test_differences_in_words() -> None:
    assert difference([1, 2], [1, 2]) is None
    assert difference([1, 2], [1]) == "1 tokens for 2"
    assert difference([1, 2, 3], [1, 5, 3]) == "token 1 of 3 is 5, not 2"


def test_an_answer_is_known_up_to_the_first_close_choice() -> None:
    clear, close, same_text = {"a": -1.0, "b": -2.0}, {"a": -1.0, "b": -1.00001}, {"a": -1.0}
    assert num_clear([clear, clear]) == 2
    assert num_clear([clear, close, clear]) == 1
    assert num_clear([same_text]) == 0


def test_known_answers_come_from_the_server() -> None:
    class Fixed(Api):
        async def complete(self, **body: Any) -> Any:
            top = [{"a": -1.0, "b": -2.0}] * 10 + [{"a": -1.0, "b": -1.0}]
            text = json.dumps({"choices": [{"logprobs": {"top_logprobs": top}}]})
            return Answered(200, text, list(range(11)), 11)

    async def run() -> list[Expected]:
        async with ClientSession() as session:
            return await compute_expected(Fixed(session, ""), "m", 2, 11, 50, random.Random(0))

    found = asyncio.run(run())
    assert [len(known.tokens) for known in found] == [10, 10]
    assert found[0].part(2, 3)[1] == [2, 3, 4]
