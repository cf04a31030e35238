"""Dialogs of text data sets as requests: recorded words, assumed timing.

A dialog is a session. Turn k's prompt is an optional prefix that all dialogs of one key share, every earlier utterance
and recorded answer, and a new utterance, so prompts of later turns begin with those of earlier ones. Sessions start
when an arrival process says so, or where the source records a time, at that time; later turns follow after an assumed
service and think time. Chat templates are not modelled.

Drawn arrivals fill a window that has the request rate asked for, from its first second to its last: turns past its end
stand at its beginning instead, as those of sessions that began before it, whose history no cache has seen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from libra.request import Request, Segment
from libra.tokens import Tokens, segment_tokens
from workloads.arrivals import FloatArray, IntArray
from workloads.dialog_starts import Starts, start_sessions
from workloads.dialogs import Corpus, Dialog
from workloads.distributions import Distribution, whole_tokens
from workloads.formats import ReadOptions
from workloads.garbage import collection_paused
from workloads.header import Provenance
from workloads.recorded import Recorded
from workloads.seeds import generator
from workloads.sessions import SessionConfig
from workloads.text import make_encoder
from workloads.trace import Trace
from workloads.turns import Turns, first_turns, turn_arrivals, turn_requests
from workloads.unhashed import observed_seconds

MAX_WRAPPED_SHARE = 0.1
DIALOG_PROVENANCE = Provenance("mapped", "drawn", "mapped", "mapped")


@dataclass(frozen=True)
class DialogReader:
    """A text data set as a TraceReader: ``dialogs`` reads files, counting what it skips in its last argument.

    ``scenario`` gives what the data lacks: think times, the service time, and the lengths of answers left out.
    """

    name: str
    summary: str
    key_name: str
    scenario: SessionConfig
    dialogs: Callable[[Sequence[Path], ReadOptions, Counter[str]], Iterator[Dialog]]
    required_columns: tuple[frozenset[str], ...] = ()
    provenance: Provenance = DIALOG_PROVENANCE

    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files, folders or archives. Raises LibraError, naming file, row and field."""
        return self.record(paths, options).trace(options)

    @collection_paused()
    def record(self, paths: Sequence[Path], options: ReadOptions) -> Recorded:
        """The requests of all dialogs, before they have adapters."""
        encoder, counts = make_encoder(options.text), Counter[str]()
        corpus = Corpus(encoder)
        for dialog in self.dialogs(paths, options, counts):
            if dialog.exchanges:
                corpus.add(dialog)
            else:
                counts["skipped_dialogs_without_exchange"] += 1
        if not corpus.keys:
            return Recorded(paths[0].stem, self.name, (), 0.0, self.provenance, counts=dict(counts))
        starts = start_sessions(corpus, options, counts)
        turns, places, drawn = _turns(corpus, starts, self.scenario, options)
        dialogs = starts.dialogs
        if starts.window_s is not None:
            turns, owners = _wrapped(turns, starts.window_s)
            dialogs = dialogs[owners]
        wrapped = len(dialogs) - len(starts.dialogs)
        counts["sessions_begun_before_the_window"] += wrapped
        order = np.argsort(turns.arrival_s, kind="stable").astype(np.int64)
        keys = [corpus.keys[dialog] for dialog in dialogs.tolist()]
        prefixes = {key: _prefix(key, options.text.system_tokens) for key in keys}
        requests = turn_requests(turns, order, [None] * len(keys), [prefixes[key] for key in keys])
        if encoder.vocab_size is not None:
            ids = [corpus.ids[place] for place in places.tolist()]
            requests = _with_ids(requests, ids, order, encoder.vocab_size)
        return Recorded(
            name=paths[0].stem,
            format=self.name,
            requests=tuple(requests),
            duration_s=_duration(turns, starts),
            provenance=Provenance("mapped", starts.source, "drawn" if drawn else "mapped", "mapped"),
            keys=[keys[session] for session in turns.session[order].tolist()],
            key_name=self.key_name,
            parameters={
                **encoder.parameters,
                "system_tokens": options.text.system_tokens,
                **starts.parameters,
                **_assumed(self.scenario, options, len(turns.session) > len(starts.dialogs), drawn),
            },
            counts={reason: count for reason, count in counts.items() if count},
            warnings=(*starts.warnings, *_warnings(wrapped, len(starts.dialogs))),
        )


def _turns(
    corpus: Corpus, starts: Starts, scenario: SessionConfig, options: ReadOptions
) -> tuple[Turns, IntArray, int]:
    """The turns of all sessions, the place of each in the corpus, and how many answers' lengths are drawn."""
    counts = corpus.counts[starts.dialogs]
    first = first_turns(counts)
    session = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(session)) + (first_turns(corpus.counts)[starts.dialogs] - first)[session]
    answer = corpus.answer[places]
    missing = np.flatnonzero(answer == 0)
    drawn = scenario.answer_tokens.sample(generator(options.seed, "answers"), len(missing))
    answer[missing] = whole_tokens(drawn, scenario.max_utterance_tokens)
    think_s = _think_time(scenario, options).sample(generator(options.seed, "think"), len(session))
    arrival_s = turn_arrivals(starts.times, counts, think_s, answer, scenario.service)
    return Turns(session, first, arrival_s, corpus.user[places], answer), places, len(missing)


def _wrapped(turns: Turns, window_s: float) -> tuple[Turns, IntArray]:
    """The turns inside [0, window_s], and the session that each session comes from: itself, or for the turns of one
    that lie a number of windows late, a new session of their own at the end of the list."""
    late = (turns.arrival_s // window_s).astype(np.int64)
    moved = np.flatnonzero(late)
    parts, part = np.unique(np.stack([turns.session[moved], late[moved]]), axis=1, return_inverse=True)
    session = turns.session.copy()
    session[moved] = len(turns.first) + part.ravel()
    owners = np.concatenate([np.arange(len(turns.first)), parts[0]])
    arrival_s: FloatArray = np.round(turns.arrival_s - late * window_s, 6).astype(np.float64)
    return turns._replace(session=session, first=turns.first[owners], arrival_s=arrival_s), owners


def _duration(turns: Turns, starts: Starts) -> float:
    """The window, or where times are recorded, one mean gap past the last request."""
    if starts.window_s is not None:
        return round(starts.window_s, 6)
    return observed_seconds(turns.arrival_s)


def _think_time(scenario: SessionConfig, options: ReadOptions) -> Distribution:
    mean = options.text.think_s
    return scenario.think_s if mean is None else replace(scenario.think_s, mean=mean)  # type: ignore[type-var]


def _assumed(scenario: SessionConfig, options: ReadOptions, later_turns: bool, drawn: int) -> dict[str, Any]:
    """What was assumed of turns after the first and of answers, if there are any such."""
    assumed: dict[str, Any] = {}
    if later_turns:
        assumed["think_s"] = _described(_think_time(scenario, options))
        assumed["service"] = _described(scenario.service)
    if drawn:
        assumed["answer_tokens"] = _described(scenario.answer_tokens)
        assumed["answers_drawn"] = drawn
    return assumed


def _described(value: Any) -> dict[str, Any]:
    return {"kind": type(value).__name__, **asdict(value)}


def _warnings(wrapped: int, sessions: int) -> tuple[str, ...]:
    if wrapped <= MAX_WRAPPED_SHARE * sessions:
        return ()
    return (
        f"{wrapped:,} parts of {sessions:,} dialogs stand at the window's start with a history no cache has seen: "
        "there are too few dialogs for this request rate; lower --request-rate",
    )


def _prefix(key: str, tokens: int) -> Segment | None:
    return Segment(f"{key}.sys", 0, tokens) if tokens else None


def _with_ids(
    requests: Iterable[Request], ids: Sequence[tuple[Tokens, Tokens | None]], order: IntArray, vocab_size: int
) -> Iterator[Request]:
    """Requests with token ids in place of segments; a prefix and answers that are not recorded get drawn ones.

    ``ids`` has the tokens of utterance and answer of every turn, and turns of one session are neighbours in it.
    """

    def tokens(part: Segment, recorded: Tokens | None) -> list[int]:
        found = segment_tokens(part.id, 0, part.length, vocab_size) if recorded is None else recorded
        return [int(token) for token in found.tolist()]

    for request, turn in zip(requests, order.tolist(), strict=True):
        parts = request.prompt
        earlier = [text for pair in ids[turn - (len(parts) - 1) // 2 : turn] for text in pair]
        recorded = [*[None] * ((len(parts) - 1) % 2), *earlier, ids[turn][0]]
        answer = Segment(str(request.output), 0, request.output_tokens)
        yield replace(
            request,
            prompt=(),
            prompt_token_ids=tuple(
                token for part, known in zip(parts, recorded, strict=True) for token in tokens(part, known)
            ),
            output=None,
            output_token_ids=tuple(tokens(answer, ids[turn][1])),
        )
