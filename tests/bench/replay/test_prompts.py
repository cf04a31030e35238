"""Bodies: what each form of prompt and each option puts on the wire."""

import json
from typing import Any

from bench.replay.answer import Answer
from bench.replay.prompts import BodyOptions, BodyWriter, ChatBodies, TextBodies, TokenIdBodies
from libra.request import Request, Segment
from libra.tokens import prompt_tokens

VOCAB = 1000
MODELS = {None: "base/model", "a": 'lo"ra'}
PROMPT = (Segment("sys", 0, 4), Segment("t0", 0, 3), Segment("o0", 0, 2), Segment("t1", 2, 3))
REQUEST = Request(id=1, arrival_s=0.0, adapter="a", output_tokens=7, prompt=PROMPT, output="o1")


def write(kind: type[BodyWriter], answers: dict[str, Answer] | None = None, **options: Any) -> dict[str, Any]:
    writer = kind(BodyOptions(VOCAB, **options), MODELS, frozenset({"o0", "o1"}))
    document = json.loads(writer.write(REQUEST, answers or {}))
    assert isinstance(document, dict)
    return document


def test_token_ids_are_those_of_the_engine() -> None:
    body = write(TokenIdBodies)
    assert body["prompt"] == prompt_tokens(REQUEST, VOCAB).tolist()
    assert body["model"] == 'lo"ra'
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (7, 7, True)
    assert body["stream_options"] == {"include_usage": True}
    assert body["temperature"] == 0.0


def test_without_ignore_eos_a_strict_server_sees_only_what_it_knows() -> None:
    body = write(TokenIdBodies, ignore_eos=False)
    assert body.keys() == {"model", "prompt", "max_tokens", "temperature", "stream", "stream_options"}


def test_further_fields_win() -> None:
    body = write(TokenIdBodies, extra={"temperature": 0.7, "top_p": 0.9, "ignore_eos": False})
    assert (body["temperature"], body["top_p"], body["ignore_eos"]) == (0.7, 0.9, False)


def test_a_trace_s_own_token_ids_are_sent_as_they_are() -> None:
    writer = TokenIdBodies(BodyOptions(VOCAB), MODELS, frozenset())
    request = Request(id=1, arrival_s=0.0, adapter=None, output_tokens=1, prompt_token_ids=(5, 6, 7))
    assert json.loads(writer.write(request, {}))["prompt"] == [5, 6, 7]


def test_text_has_a_word_for_each_token_and_equal_prefixes() -> None:
    text = write(TextBodies)["prompt"]
    assert len(text.split()) == 12
    shorter = Request(id=2, arrival_s=0.0, adapter="a", output_tokens=7, prompt=PROMPT[:2])
    other = json.loads(TextBodies(BodyOptions(VOCAB), MODELS, frozenset()).write(shorter, {}))["prompt"]
    assert text.startswith(other)


def test_chat_gives_earlier_answers_to_the_assistant() -> None:
    body = write(ChatBodies)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert [len(message["content"].split()) for message in body["messages"]] == [7, 2, 3]
    assert body["max_completion_tokens"] == 7
    assert "max_tokens" not in body


def test_a_shorter_answer_leaves_less_to_send_back() -> None:
    writer = TokenIdBodies(BodyOptions(VOCAB), MODELS, frozenset({"o0"}))
    for token_ids, length in (((11, 12, 13), 12), ((11,), 11), ((), 10)):
        answers = {"o0": Answer(0.0, text="said", token_ids=token_ids)}
        sent = writer.as_sent(REQUEST, answers)
        prompt = json.loads(writer.write(sent, answers))["prompt"]
        assert len(prompt) == sent.num_prompt_tokens == length
        assert prompt[7 : length - 3] == list(token_ids[:2])
    assert writer.as_sent(REQUEST, {}) is REQUEST
    text = TextBodies(BodyOptions(VOCAB), MODELS, frozenset({"o0"}))
    assert text.as_sent(REQUEST, {"o0": Answer(0.0, text="said")}) is REQUEST


def test_a_server_s_own_answer_stands_in_for_the_recorded_one() -> None:
    answer = Answer(0.0, text='said "so"\n', token_ids=(11, 12, 13))
    assert write(TokenIdBodies, {"o0": answer})["prompt"][7:9] == [11, 12]
    assert 'said "so"\n' in write(TextBodies, {"o0": answer})["prompt"]
    assert write(ChatBodies, {"o0": answer})["messages"][1] == {"role": "assistant", "content": 'said "so"\n'}
