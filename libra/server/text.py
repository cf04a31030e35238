"""Tokens to text as they come: no half characters, and nothing from a stop string on."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from libra.model.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
# An unfinished character of UTF-8 has at most three bytes, each of which may be shown as a replacement character.
_MAX_UNFINISHED = 3
# After so many tokens that give no clean text, what there is goes out: the model writes garbage.
_MAX_HELD_TOKENS = 64
_CONTEXT_TOKENS = 4


class Detokenizer:
    """Gives the text of a growing list of tokens piece by piece; the pieces add up to the text of all.

    Some decoders treat the start of a text apart, so tokens are decoded together with those before them, back to the
    last place where the text was clean. A replacement character at the end may become a character, and waits.
    """

    def __init__(self, tokenizer: Tokenizer, context: Items[int], skip_special_tokens: bool = True) -> None:
        """``context``: the prompt's tokens, of which a few are decoded along."""
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._window = list(context[-_CONTEXT_TOKENS:])
        if self._decode(self._window).endswith(_REPLACEMENT):
            self._window = []
        self._clean = len(self._window)  # tokens of the window that had been given out when the text was last clean
        self._clean_text = self._decode(self._window)
        self._given = len(self._clean_text)  # characters of the window's text given out so far

    def add(self, token: int) -> str:
        """The text that ``token`` completes; often empty, or of several tokens."""
        self._window.append(token)
        text = self._decode(self._window)
        is_clean = not text.endswith(_REPLACEMENT)
        if is_clean or len(self._window) - self._clean >= _MAX_HELD_TOKENS:
            return self._give_all(text)
        if not text.startswith(self._clean_text):
            return ""  # the decoder takes back what was given out, until the character is whole
        end = max(len(text.rstrip(_REPLACEMENT)), len(text) - _MAX_UNFINISHED)
        piece, self._given = text[self._given : end], max(self._given, end)
        return piece

    def finish(self) -> str:
        """What is left at the end, broken characters included."""
        return self._give_all(self._decode(self._window))

    def _give_all(self, text: str) -> str:
        piece = text[self._given :]
        self._window = self._window[self._clean :]
        self._clean = len(self._window)
        self._clean_text = self._decode(self._window)
        self._given = len(self._clean_text)
        return piece

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, self._skip_special_tokens) if tokens else ""


@dataclass(frozen=True, slots=True)
class StopStrings:
    """Texts that end an answer once it has ``min_tokens`` tokens. ``included``: the text that was met is part of it."""

    texts: tuple[str, ...] = ()
    included: bool = False
    min_tokens: int = 0


class AnswerText:
    """The text of one answer. ``met`` is the stop string that ended it."""

    def __init__(self, detokenizer: Detokenizer, stops: StopStrings) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._longest = max((len(text) for text in stops.texts), default=0)
        self._held = ""  # may be the beginning of a stop string
        self._num_tokens = 0
        self.met: str | None = None

    def add(self, token: int) -> str:
        """The text that can be given out after ``token``."""
        self._num_tokens += 1
        return self._give(self._detokenizer.add(token), is_end=False)

    def finish(self) -> str:
        """The rest, when the answer has ended without a stop string."""
        return self._give(self._detokenizer.finish(), is_end=True)

    def _give(self, piece: str, is_end: bool) -> str:
        if not self._stops.texts:
            return piece
        held, self._held = self._held + piece, ""
        if self._num_tokens <= self._stops.min_tokens:
            return held
        starts = {text: start for text in self._stops.texts if (start := held.find(text)) >= 0}
        if starts:
            # The one that ends first, then the one that began first: however the text is cut into tokens.
            self.met = min(starts, key=lambda text: (starts[text] + len(text), starts[text]))
            start = starts[self.met]
            return held[: start + len(self.met)] if self._stops.included else held[:start]
        if is_end:
            return held
        longest = min(self._longest - 1, len(held))
        keep = next(length for length in range(longest, -1, -1) if self._may_begin(held, length))
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def _may_begin(self, held: str, length: int) -> bool:
        """Whether the last ``length`` characters could be the start of a stop string."""
        return length == 0 or any(text.startswith(held[len(held) - length :]) for text in self._stops.texts)
