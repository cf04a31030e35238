"""Dialogs of text data sets: what readers of such sets find, and all of it as token counts.

Text is never kept: only token counts are, or token ids where a tokenizer is given.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from libra.tokens import Tokens
from workloads.arrivals import IntArray
from workloads.text import Encoder


class Exchange(NamedTuple):
    """What a user says and what is answered; None where the source leaves the answer out."""

    user: str
    answer: str | None


class Dialog(NamedTuple):
    """One conversation: ``key`` is what stands for an adapter, ``start_s`` a recorded time in seconds of any epoch."""

    key: str
    exchanges: Sequence[Exchange]
    start_s: float | None = None


class Utterance(NamedTuple):
    by_user: bool
    text: str


def pair_up(utterances: Iterable[Utterance], skipped: Counter[str]) -> list[Exchange]:
    """The exchanges of a dialog.

    Utterances in a row by one speaker are joined; what an assistant says before the user does is part of the first
    prompt. Empty utterances and a last one without an answer are left out and counted in ``skipped``.
    """
    exchanges: list[Exchange] = []
    pending: list[str] = []
    answered = True  # an opening by the assistant answers nothing
    for by_user, text in utterances:
        if not text or text.isspace():
            skipped["skipped_empty_utterances"] += 1
        elif by_user:
            pending.append(text)
            answered = False
        elif not answered:
            exchanges.append(Exchange("\n".join(pending), text))
            pending, answered = [], True
        elif exchanges:
            user, answer = exchanges[-1]
            exchanges[-1] = Exchange(user, f"{answer}\n{text}")
        else:
            pending.append(text)
    if not answered:
        skipped["skipped_unanswered_utterances"] += 1
    return exchanges


class Corpus:
    """All dialogs as flat arrays: ``counts`` has one entry a dialog, ``user`` and ``answer`` (tokens) one a turn."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[str, str] = {}
        self.keys: list[str] = []
        self.starts: list[float | None] = []
        self._counts, self._user, self._answer = array("q"), array("q"), array("q")
        self.ids: list[tuple[Tokens, Tokens | None]] = []

    def add(self, dialog: Dialog) -> None:
        """Appends ``dialog``; an answer that is not recorded has 0 tokens."""
        self.keys.append(self._known.setdefault(dialog.key, dialog.key))
        self.starts.append(dialog.start_s)
        self._counts.append(len(dialog.exchanges))
        texts = [text for exchange in dialog.exchanges for text in exchange if text is not None]
        lengths, ids = self._encoder.encode(texts)
        length, token_ids = iter(lengths), iter(ids)
        for _, answer in dialog.exchanges:
            self._user.append(next(length))
            self._answer.append(0 if answer is None else next(length))
            if ids:
                self.ids.append((next(token_ids), None if answer is None else next(token_ids)))

    @property
    def num_turns(self) -> int:
        return len(self._user)

    @property
    def counts(self) -> IntArray:
        return np.array(self._counts, dtype=np.int64)

    @property
    def user(self) -> IntArray:
        return np.array(self._user, dtype=np.int64)

    @property
    def answer(self) -> IntArray:
        return np.array(self._answer, dtype=np.int64)
