"""What /v1/completions and /v1/chat/completions answer."""

import json
import math
from typing import Any

import numpy as np
import pytest

from libra.engine.sequence import SamplingParams
from libra.request import Request
from libra.server.build import build_front, make_engine
from libra.tokens import adapter_seed, extend_block_hashes
from tests.libra.server.running import BASE, BLOCK_TOKENS, Running, engine_settings, running, settings
from tests.tiny_models import TinyModel

PROMPT = [5, 9, 300, 41, 77, 12, 400, 8, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39]
OUTPUT_TOKENS = 12


@pytest.fixture(scope="module")
def expected(tiny_model: TinyModel) -> dict[str | None, list[int]]:
    """Greedy tokens after PROMPT by adapter, from an engine in this process, one request at a time."""
    engine = make_engine(build_front(settings(), engine_settings(tiny_model)))().engine
    answers: dict[str | None, list[int]] = {}
    for number, adapter in enumerate([None, *tiny_model.adapters]):
        request = Request(number, engine.clock.now(), adapter, OUTPUT_TOKENS, prompt_token_ids=tuple(PROMPT))
        sequence = engine.submit(request, SamplingParams())
        while engine.scheduler.has_work:
            engine.step()
        answers[adapter] = sequence.tokens[len(PROMPT) :].tolist()
    engine.manager.memory.link.close()
    return answers


def test_tokens_over_http_are_those_of_the_engine(served: Running, expected: dict[str | None, list[int]]) -> None:
    assert len({tuple(tokens) for tokens in expected.values()}) == len(expected), "the adapters change nothing"
    for adapter, tokens in expected.items():
        for stream in (False, True):
            body = {"prompt": PROMPT, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True, "return_token_ids": True}
            reply = served.complete(model=adapter or BASE, stream=stream, **body)
            choices = [event["choices"][0] for event in reply.events] if stream else reply.json["choices"]
            assert [token for choice in choices for token in choice["token_ids"]] == tokens
            assert choices[-1]["finish_reason"] == "length"
            assert reply.text == served.server.model.tokenizer.decode(tokens)


def test_a_whole_completion_has_openai_s_shape(served: Running) -> None:
    reply = served.complete(prompt="the cat", max_tokens=4, ignore_eos=True)
    assert reply.status == 200
    document = reply.json
    assert document["id"].startswith("cmpl-")
    assert (document["object"], document["model"]) == ("text_completion", BASE)
    (choice,) = document["choices"]
    assert set(choice) == {"index", "text", "logprobs", "finish_reason", "stop_reason"}
    usage = document["usage"]
    assert (usage["completion_tokens"], usage["total_tokens"]) == (4, usage["prompt_tokens"] + 4)
    told = usage["libra"]
    assert told["adapter_tier"] == "base"
    assert told["prefill_s"] > 0.0
    assert set(told) == {
        "adapter_tier", "queue_s", "evict_wait_s", "adapter_load_s", "kv_load_s", "prefill_s", "hbm_hit_tokens",
        "host_hit_tokens", "preemptions",
    }  # fmt: skip


def test_a_stream_has_the_same_text_and_ends_on_usage_when_asked(served: Running) -> None:
    asked: dict[str, Any] = {"prompt": "abc abc", "max_tokens": 9, "ignore_eos": True, "model": "adapter-01"}
    whole = served.complete(**asked)
    bare = served.complete(**asked, stream=True)
    counted = served.complete(**asked, stream=True, stream_options={"include_usage": True})
    always = served.complete(
        **asked, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}
    )
    assert whole.text == bare.text == counted.text == always.text
    assert len(bare.events) == 9, "one event per token"
    assert not any("usage" in event for event in bare.events)
    assert [event["usage"] for event in counted.events[:-1]] == [None] * 9
    last = counted.events[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 9
    assert last["usage"]["libra"]["adapter_tier"] in ("hbm", "host", "loading", "disk")
    assert [event["usage"]["completion_tokens"] for event in always.events] == [*range(1, 10), 9]


def test_chat_streams_a_role_and_then_text(served: Running) -> None:
    asked: dict[str, Any] = {"max_completion_tokens": 5, "ignore_eos": True}
    whole, streamed = served.chat("hello", **asked), served.chat("hello", **asked, stream=True)
    assert whole.json["object"] == "chat.completion"
    message = whole.json["choices"][0]["message"]
    assert message["role"] == "assistant"
    deltas = [event["choices"][0]["delta"] for event in streamed.events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert len(deltas) == 6
    assert "".join(delta["content"] for delta in deltas) == message["content"]
    assert {event["object"] for event in streamed.events} == {"chat.completion.chunk"}


def test_contents_may_be_lists_of_parts(served: Running) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    body = {"model": BASE, "temperature": 0, "max_tokens": 5}
    listed = served.post("/v1/chat/completions", **body, messages=[{"role": "user", "content": parts}])
    assert listed.text == served.chat("one\ntwo", max_tokens=5).text


def test_exactly_as_many_tokens_come_as_are_asked_for(served: Running) -> None:
    for length in (1, 2, 37):
        usage = served.complete(prompt=PROMPT, max_tokens=length, ignore_eos=True, min_tokens=length).json["usage"]
        assert usage["completion_tokens"] == length
    assert served.complete(prompt="x", max_tokens=None, ignore_eos=True).json["usage"]["completion_tokens"] == 16


def test_either_name_of_the_limit_is_understood_everywhere(served: Running) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        asked: dict[str, Any] = {"max_tokens": None, name: 5, "ignore_eos": True}
        for reply in (served.complete(**asked), served.chat("hi", **asked)):
            assert reply.json["usage"]["completion_tokens"] == 5
    both: dict[str, Any] = {"max_tokens": 5, "max_completion_tokens": 3, "ignore_eos": True}
    assert served.chat("hi", **both).json["usage"]["completion_tokens"] == 3


def test_headers_of_load_tools_are_taken(served: Running) -> None:
    headers = {"X-Request-ID": "a", "X-Correlation-ID": "b", "X-Session-Affinity": "c", "x-user-id": "d"}
    body = {"model": BASE, "prompt": "a", "max_tokens": 2}
    assert served.ask("POST", "/v1/completions", body, headers).status == 200


def test_probes_of_load_tools_are_answered(served: Running) -> None:
    assert [served.get(path).status for path in ("/health", "/ping", "/version", "/metrics")] == [200] * 4
    assert served.get("/server_info").error["code"] == "not_found"


def test_a_stop_string_cuts_text_and_tokens(served: Running) -> None:
    free = served.complete(prompt=PROMPT, max_tokens=30, ignore_eos=True, model="adapter-00")
    text = free.text
    stop = text[10:13]
    cut = served.complete(prompt=PROMPT, max_tokens=30, ignore_eos=True, model="adapter-00", stop=["~~~~", stop])
    choice = cut.json["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert choice["text"] == text[: text.index(stop)]
    assert 0 < cut.json["usage"]["completion_tokens"] < 30
    streamed = served.complete(
        prompt=PROMPT, max_tokens=30, ignore_eos=True, model="adapter-00", stop=stop, stream=True,
        include_stop_str_in_output=True,
    )  # fmt: skip
    assert streamed.text == text[: text.index(stop) + 3]


def test_stop_tokens_end_the_answer_after_the_least_length(
    served: Running, expected: dict[str | None, list[int]]
) -> None:
    tokens = expected["adapter-02"]
    asked: dict[str, Any] = {
        "model": "adapter-02", "prompt": PROMPT, "max_tokens": 12, "stop_token_ids": [tokens[4]],
        "return_token_ids": True,
    }  # fmt: skip
    (choice,) = served.complete(**asked).json["choices"]
    assert choice["token_ids"] == tokens[: tokens.index(tokens[4]) + 1]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", tokens[4])
    assert choice["text"] == served.server.model.tokenizer.decode(choice["token_ids"][:-1])
    (later,) = served.complete(**asked, min_tokens=9).json["choices"]
    assert len(later["token_ids"]) >= 9
    assert tokens[4] not in later["token_ids"][:9]


def test_seeds_make_draws_repeat_and_n_answers_differ(served: Running) -> None:
    asked: dict[str, Any] = {"prompt": "once", "temperature": 1.0, "seed": 5, "max_tokens": 12, "ignore_eos": True}
    first, second = served.complete(**asked, n=3), served.complete(**asked, n=3, stream=True)
    texts = [choice["text"] for choice in first.json["choices"]]
    assert len(set(texts)) == 3
    for index, text in enumerate(texts):
        pieces = [c["text"] for event in second.events for c in event["choices"] if c["index"] == index]
        assert "".join(pieces) == text
    assert served.complete(**asked).text == texts[0]
    assert first.json["usage"]["completion_tokens"] == 36
    assert served.complete(**{**asked, "seed": 6}).text != texts[0]


def test_several_prompts_are_answered_in_order(served: Running) -> None:
    together = served.complete(prompt=["ab", "cd"], n=2).json
    alone = [served.complete(prompt=prompt).text for prompt in ("ab", "cd")]
    assert [choice["text"] for choice in together["choices"]] == [alone[0], alone[0], alone[1], alone[1]]
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2, 3]
    lists = served.complete(prompt=[[4, 5], [6]]).json
    assert lists["usage"]["prompt_tokens"] == 3
    assert len(lists["choices"]) == 2


def test_echo_puts_the_prompt_first(served: Running) -> None:
    plain = served.complete(prompt="abc def", ignore_eos=True).text
    assert served.complete(prompt="abc def", ignore_eos=True, echo=True).text == "abc def" + plain
    assert served.complete(prompt="abc def", ignore_eos=True, echo=True, stream=True).text == "abc def" + plain


def test_logprobs_of_completions_and_of_chat(served: Running) -> None:
    reply = served.complete(prompt=PROMPT, max_tokens=4, ignore_eos=True, logprobs=3).json["choices"][0]["logprobs"]
    assert [len(reply[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [4] * 4
    assert all(len(top) <= 3 for top in reply["top_logprobs"])
    for chosen, top in zip(reply["token_logprobs"], reply["top_logprobs"], strict=True):
        assert chosen == max(top.values()) <= 0.0, "greedy takes the most likely"
    asked: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True, "logprobs": True, "top_logprobs": 2}
    content = served.chat("hey", **asked).json["choices"][0]["logprobs"]["content"]
    streamed = [event["choices"][0]["logprobs"] for event in served.chat("hey", **asked, stream=True).events]
    assert [entry for logprobs in streamed if logprobs for entry in logprobs["content"]] == content
    assert len(content) == 4
    for entry in content:
        assert len(entry["top_logprobs"]) == 2
        assert entry["logprob"] == pytest.approx(entry["top_logprobs"][0]["logprob"])
        assert sum(math.exp(other["logprob"]) for other in entry["top_logprobs"]) <= 1.0


def test_a_prompt_sent_again_is_found_in_the_cache(served: Running) -> None:
    prompt = [7] * 40
    first, second = (served.complete(prompt=prompt, model="adapter-03") for _ in range(2))
    cached = [reply.json["usage"]["prompt_tokens_details"]["cached_tokens"] for reply in (first, second)]
    assert cached == [0, 32]
    assert first.text == second.text
    other = served.complete(prompt=prompt, model="adapter-04").json["usage"]
    assert other["prompt_tokens_details"]["cached_tokens"] == 0, "KV of one adapter served another"


def test_a_salt_keeps_its_kv_to_itself(served: Running) -> None:
    prompt = [11] * 40

    def cached(**salt: Any) -> int:
        usage = served.complete(prompt=prompt, **salt).json["usage"]
        found: int = usage["prompt_tokens_details"]["cached_tokens"]
        return found

    assert [cached(cache_salt="a"), cached(cache_salt="a"), cached(cache_salt="b"), cached(), cached()] == [
        0,
        32,
        0,
        0,
        32,
    ]


def test_nobody_can_tell_the_labels_of_blocks(served: Running) -> None:
    """Whoever can makes KV that another's prompt finds: the hash is quick to collide with once its seed is known."""
    prompt = [17] * 40
    for salt in (None, "a"):
        served.complete(prompt=prompt, **({} if salt is None else {"cache_salt": salt}))
        told: list[int] = []
        extend_block_hashes(told, np.array(prompt, dtype=np.uint32), BLOCK_TOKENS, 2, adapter_seed(None, salt))
        found = served.in_engine(lambda engine, told=told: [*map(engine.manager.memory.tree.has_label, told)])  # type: ignore[misc]
        assert found == [False, False]


def test_cached_tokens_never_come_from_another_adapter_or_salt(served: Running) -> None:
    """Prompts of few families, so that everybody's beginnings are in the cache under somebody's name."""
    draw = np.random.default_rng(3)
    models, salts = [BASE, "adapter-00", "adapter-01"], [None, "red", "blue"]
    seen: dict[tuple[str, str | None], list[list[int]]] = {}
    texts: dict[tuple[str, str], str] = {}
    num_cached = 0
    for _ in range(80):
        model, salt = models[draw.integers(3)], salts[draw.integers(3)]
        prompt = [60 + int(draw.integers(2))] * int(draw.integers(1, 6)) * 16 + [int(draw.integers(70, 73))] * 20
        earlier = seen.setdefault((model, salt), [])
        reply = served.complete(model=model, prompt=prompt, **({} if salt is None else {"cache_salt": salt})).json
        cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached <= max((shared_tokens(prompt, other) for other in earlier), default=0)
        num_cached += cached
        text = reply["choices"][0]["text"]
        assert texts.setdefault((model, str(prompt)), text) == text, "where KV came from changed the answer"
        earlier.append(prompt)
    assert num_cached > 0


def shared_tokens(one: list[int], other: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_users_may_be_kept_apart(tiny_model: TinyModel) -> None:
    with running(settings(cache_salt="user"), engine_settings(tiny_model)) as server:
        users = ["ann", "ann", "bob", None, "ann", "", "b" * 1000]
        replies = [server.complete(prompt=[13] * 40, **({} if user is None else {"user": user})) for user in users]
    cached = [reply.json["usage"]["prompt_tokens_details"]["cached_tokens"] for reply in replies]
    assert cached == [0, 32, 0, 0, 32, 32, 0]


def test_fields_that_mean_nothing_here_are_accepted_and_counted(served: Running) -> None:
    extras = {"repetition_penalty": 1.1, "lora_path": "x", "made_up": {"deep": [1]}, "best_of": 1}
    reply = served.complete(
        prompt="a", **extras, stream=True, stream_options={"include_usage": True, "include_obfuscation": False}
    )
    assert reply.status == 200
    page = served.get("/metrics").body.decode()
    for name in ("repetition_penalty", "lora_path", "other"):
        assert f'libra:ignored_fields_total{{field="{name}",model_name="{BASE}"}}' in page
    assert "made_up" not in page


def test_tokenize_and_detokenize_undo_each_other(served: Running) -> None:
    made = served.post("/tokenize", model=BASE, prompt="the cat 你").json
    assert made["count"] == len(made["tokens"])
    assert made["max_model_len"] == served.server.model.max_length
    assert served.post("/detokenize", tokens=made["tokens"]).json == {"prompt": "the cat 你"}
    chat = served.post("/tokenize", messages=[{"role": "user", "content": "hi"}]).json
    assert served.post("/detokenize", tokens=chat["tokens"]).json == {"prompt": "user: hi\nassistant:"}
    assert chat["count"] == served.chat("hi").json["usage"]["prompt_tokens"]


def test_the_list_of_models_names_base_and_adapters(served: Running) -> None:
    listed = served.get("/v1/models").json
    assert listed["object"] == "list"
    base, *adapters = listed["data"]
    assert (base["id"], base["parent"], base["owned_by"]) == (BASE, None, "libra")
    assert base["libra"]["vocab_size"] == 512
    assert base["libra"]["policy"] == "fastlibra"
    assert [card["id"] for card in adapters] == [f"adapter-{n:02d}" for n in range(5)]
    assert {card["parent"] for card in adapters} == {BASE}
    assert served.get("/v1/models/adapter-02").json == adapters[2]


def test_a_request_id_comes_back(served: Running) -> None:
    reply = served.ask("GET", "/health", headers={"X-Request-ID": "r-17"})
    assert reply.headers["X-Request-ID"] == "r-17"
    assert json.loads(reply.body) == {"status": "ok"}
