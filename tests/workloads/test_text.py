"""Token counts and token ids of texts."""

import json
from pathlib import Path

import pytest

from libra.errors import LibraError
from tests.workloads.test_dialog_reader import dialog, sessions_of
from tests.workloads.texts import reader_of
from workloads.dialogs import Dialog, Exchange
from workloads.formats import ReadOptions
from workloads.text import TextOptions, load_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """One token a word: known words have their place, all others share id 0."""
    path = tmp_path / "tokenizer.json"
    words = {"[UNK]": 0, "good": 1, "day": 2, "night": 3}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    content = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model, **empty}
    path.write_text(json.dumps(content))
    return path


def test_token_ids_are_those_of_the_text(tokenizer: Path) -> None:
    options = ReadOptions(request_rate=0.001, text=TextOptions(tokenizer=tokenizer))
    trace = reader_of([dialog("x", "good day", "good good night", "day", "night")]).read([Path("x")], options)
    assert [request.prompt_token_ids for request in trace.requests] == [(1, 2), (1, 2, 1, 1, 3, 2)]
    assert [request.output_token_ids for request in trace.requests] == [(1, 1, 3), (3,)]
    assert trace.header.parameters["tokenizer"] == "tokenizer.json"
    assert len(trace.header.parameters["tokenizer_sha256"]) == 64


def test_drawn_ids_stand_for_prefixes_and_answers_left_out(tokenizer: Path) -> None:
    found = [Dialog("x", [Exchange("good", None), Exchange("night", "day")]), dialog("x", "day", "day")]
    options = ReadOptions(request_rate=0.001, text=TextOptions(tokenizer=tokenizer, system_tokens=6))
    trace = reader_of(found).read([Path("x")], options)
    for turns in sessions_of(trace).values():
        prompt, answer = turns[0].prompt_token_ids, turns[0].output_token_ids
        assert prompt is not None
        assert answer is not None
        assert max(prompt + answer) < 4
        assert prompt[:6] == trace.requests[0].prompt_token_ids[:6]  # type: ignore[index]
        for later in turns[1:]:
            assert later.prompt_token_ids == (*prompt, *answer, 3)


def test_sessions_over_the_window_keep_their_history(tokenizer: Path) -> None:
    options = ReadOptions(request_rate=5, text=TextOptions(tokenizer=tokenizer))
    trace = reader_of([dialog("x", "good", "day", "night", "day")]).read([Path("x")], options)
    assert {request.prompt_token_ids for request in trace.requests} == {(1,), (1, 2, 3)}
    assert len(sessions_of(trace)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{}", "not a tokenizer.json"), (b"\xff\xfe", "not a tokenizer.json"), (None, "cannot read")],
)
def test_bad_tokenizers(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LibraError, match=message):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bytes_per_token": 0.0}, "--bytes-per-token is 0.0"),
        ({"bytes_per_token": float("nan")}, "--bytes-per-token is nan"),
        ({"system_tokens": -1}, "--system-tokens is -1"),
        ({"think_s": float("inf")}, "--think-time is inf"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(LibraError, match=message):
        TextOptions(**options)  # type: ignore[arg-type]
