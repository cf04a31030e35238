"""Text out of tokens, piece by piece."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.model.tokenizer import Tokenizer
from libra.server.text import AnswerText, Detokenizer, StopStrings
from tests.tiny_models import TinyModel


class ByteFallback(Tokenizer):
    """Decodes as sentencepiece models with byte tokens do: a run of bytes that is not all valid is all replacement
    characters, and a space at the start of a text is dropped. Tokens below 256 are bytes, others words."""

    WORDS = ("▁you", "▁and", "ish", "▁")

    def __init__(self) -> None:
        """Reads no file."""

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        text, run = "", bytearray()
        for token in [*tokens, 256 + len(self.WORDS)]:
            if token < 256:
                run.append(token)
                continue
            try:
                text += run.decode()
            except UnicodeDecodeError:
                text += "\ufffd" * len(run)
            run.clear()
            text += self.WORDS[token - 256].replace("▁", " ") if token - 256 < len(self.WORDS) else ""
        return text.removeprefix(" ")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: TinyModel) -> Tokenizer:
    return Tokenizer(Path(tiny_model.directory))


def pieces_of(tokenizer: Tokenizer, tokens: list[int], context: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer, context or [])
    return [*(detokenizer.add(token) for token in tokens), detokenizer.finish()]


@settings(max_examples=150)
@given(st.lists(st.integers(0, 511), max_size=40))
def test_pieces_add_up_to_the_text_of_all_tokens(tokenizer: Tokenizer, tokens: list[int]) -> None:
    assert "".join(pieces_of(tokenizer, tokens)) == tokenizer.decode(tokens)


@settings(max_examples=100)
@given(st.text(alphabet=st.sampled_from("aé你😀 \u0301\u200d👩"), max_size=20))
def test_no_piece_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    pieces = pieces_of(tokenizer, tokens)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=150)
@given(st.lists(st.sampled_from([*"你".encode(), *"😀é".encode(), 65, 256, 257, 258, 259]), max_size=24))
def test_pieces_add_up_where_a_decoder_takes_back_what_it_gave(tokens: list[int]) -> None:
    fallback = ByteFallback()
    whole = fallback.decode(tokens)
    joined = "".join(pieces_of(fallback, tokens))
    # Bytes that never become a character are given out before the decoder condemns the good ones before them.
    assert joined == whole or "\ufffd" in whole


def test_characters_of_byte_tokens_come_whole() -> None:
    fallback = ByteFallback()
    tokens = [256, *"你好😀".encode(), 257]
    pieces = pieces_of(fallback, tokens, context=[257])
    assert "".join(pieces) == " you你好😀 and", "the space before a word follows from the prompt before it"
    assert not any("\ufffd" in piece for piece in pieces)


def test_endless_garbage_is_given_out_in_time(tokenizer: Tokenizer) -> None:
    (lead,) = tokenizer.encode("\u00e9", add_special_tokens=False)[:1]
    pieces = pieces_of(tokenizer, [lead] * 300)
    assert "".join(pieces) == "\ufffd" * 300
    assert sum(map(len, pieces[:200])) > 100


@pytest.mark.parametrize(
    ("stops", "included", "expected", "met"),
    [
        (("cat",), False, "the ", "cat"),
        (("cat",), True, "the cat", "cat"),
        (("t s", "cats"), False, "the ca", "t s"),
        (("cat sat", "at s"), False, "the c", "at s"),
        (("at", "cat"), False, "the ", "cat"),
        (("dog",), False, "the cat sat", None),
        (("sat!",), False, "the cat sat", None),
        (("the",), False, "", "the"),
    ],
)
def test_text_ends_at_the_first_stop_string(
    tokenizer: Tokenizer, stops: tuple[str, ...], included: bool, expected: str, met: str | None
) -> None:
    answer = AnswerText(Detokenizer(tokenizer, []), StopStrings(stops, included))
    given_out = ""
    for token in tokenizer.encode("the cat sat", add_special_tokens=False):
        given_out += answer.add(token)
        if answer.met is not None:
            break
    else:
        given_out += answer.finish()
    assert (given_out, answer.met) == (expected, met)


@settings(max_examples=100)
@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stop_strings_cut_where_a_search_of_the_whole_text_would(
    tokenizer: Tokenizer, text: str, stops: list[str]
) -> None:
    answer = AnswerText(Detokenizer(tokenizer, []), StopStrings(tuple(stops)))
    given_out = ""
    for character in text:
        (token,) = tokenizer.encode(character, add_special_tokens=False)
        given_out += answer.add(token)
        if answer.met is not None:
            break
    else:
        given_out += answer.finish()
    # What ends first wins; of those that end together, what began first.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert given_out == (text[: min(ends)[1]] if ends else text)


def test_stop_strings_wait_for_the_least_length(tokenizer: Tokenizer) -> None:
    answer = AnswerText(Detokenizer(tokenizer, []), StopStrings(("x",), min_tokens=2))
    (token,) = tokenizer.encode("x", add_special_tokens=False)
    assert [answer.add(token), answer.met, answer.add(token), answer.met] == ["x", None, "x", None]
    assert (answer.add(token), answer.met) == ("", "x")
