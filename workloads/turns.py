"""Turns of many sessions as arrays, and the requests they become: what generators and readers of dialogs share."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from libra.request import Request, Segment
from workloads.arrivals import FloatArray, IntArray
from workloads.service import ServiceTime


class Turns(NamedTuple):
    """One entry per turn, session by session; ``first[s]`` is the first turn of session s."""

    session: IntArray
    first: IntArray
    arrival_s: FloatArray
    user_tokens: IntArray
    answer_tokens: IntArray


def first_turns(counts: IntArray) -> IntArray:
    """The first turn of each session, from the number of turns of each."""
    return np.cumsum(counts) - counts


def turn_arrivals(
    starts: FloatArray, counts: IntArray, think_s: FloatArray, answer_tokens: IntArray, service: ServiceTime
) -> FloatArray:
    """When each turn arrives: one assumed service time and one think time after the turn before it.

    ``starts`` and ``counts`` have one entry a session, ``think_s`` and ``answer_tokens`` one a turn; the think time of
    a session's first turn is not used.
    """
    gaps = think_s.copy()
    gaps[1:] += service.first_token_s + service.per_token_s * answer_tokens[:-1]
    elapsed = np.cumsum(gaps)  # over all sessions, so a session's own first gap cancels below
    session = np.repeat(np.arange(len(counts)), counts)
    arrivals: FloatArray = np.round(starts[session] + elapsed - elapsed[first_turns(counts)][session], 6)
    return arrivals


def turn_requests(
    turns: Turns, order: IntArray, adapters: Sequence[str | None], prefixes: Sequence[Segment | None]
) -> Iterator[Request]:
    """The turns of ``order``, by arrival, as requests; ``adapters`` and ``prefixes`` have one entry per session.

    A prompt is the session's shared prefix, every earlier utterance and answer of it, and a new utterance. A session's
    history is built once and grows by two segments a turn.
    """
    histories: dict[int, list[Segment]] = {}
    user, answer = turns.user_tokens.tolist(), turns.answer_tokens.tolist()
    first = turns.first.tolist()
    rows = zip(order.tolist(), turns.session[order].tolist(), turns.arrival_s[order].tolist(), strict=True)
    for identifier, (turn, session, arrival_s) in enumerate(rows):
        number, name, prefix = turn - first[session], f"s{session}", prefixes[session]
        history = histories.setdefault(session, [] if prefix is None else [prefix])
        for earlier in range(len(history) // 2, number):
            history.append(Segment(f"{name}.t{earlier}", 0, user[first[session] + earlier]))
            history.append(Segment(f"{name}.o{earlier}", 0, answer[first[session] + earlier]))
        yield Request(
            id=identifier,
            arrival_s=arrival_s,
            adapter=adapters[session],
            output_tokens=answer[turn],
            prompt=(*history, Segment(f"{name}.t{number}", 0, user[turn])),
            output=f"{name}.o{number}",
            session=name,
        )
