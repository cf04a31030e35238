"""kv-cache-tester: agentic coding sessions as JSON documents: times, lengths and hashes of 64-token blocks.

Native: gaps inside a session, lengths, and prefix blocks, which only compare inside one session (``hash_id_scope``
local) and cover full blocks. Drawn: when sessions start, since each counts time from its own start. Mapped: adapters,
from the model. A ``subagent`` entry holds requests of its own: they are a session beside the one that called it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libra.errors import LibraError
from libra.request import Request
from workloads.arrivals import FloatArray
from workloads.block_prompts import BlockPrompts, hash_list
from workloads.formats import ReadOptions
from workloads.garbage import collection_paused
from workloads.header import Provenance
from workloads.processes import parse_arrivals
from workloads.recorded import Recorded
from workloads.rows import FieldFault, integer, seconds, text
from workloads.seeds import generator
from workloads.sources import Source, open_sources
from workloads.tables import Ordered, json_document, token_count
from workloads.trace import Trace
from workloads.unhashed import observed_seconds

LONG_PROMPT = 32_768
# How many sessions are live at a time, on average: assumed, since each one counts time from its own start.
LIVE_SESSIONS = 10
RECORDED = Provenance("mapped", "drawn", "native", "native")


class _Turn(NamedTuple):
    """One request, with its time from the start of its session."""

    offset_s: float
    request: Request
    model: str


@dataclass(frozen=True)
class KVCacheTesterReader:
    """Reads one session per file. Sessions start in a drawn order, each once, as ``options.drawn_arrivals`` says and so
    often that LIVE_SESSIONS of them overlap."""

    name: str = "kv-cache-tester"
    summary: str = "agentic coding sessions: very long prompts, prefix blocks of 64 tokens, model"
    required_columns: tuple[frozenset[str], ...] = (frozenset({"hash_id_scope", "block_size", "requests"}),)
    provenance: Provenance = RECORDED

    @collection_paused()
    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files. Requests without a prompt or an answer are skipped and counted; other faults raise."""
        skipped = {"skipped_without_prompt_or_answer": 0}
        sources = open_sources(paths, options.max_bytes, (".json",))
        sessions = [_session(source, f"s{number}", skipped) for number, source in enumerate(sources)]
        sessions = [session for session in sessions if session]
        starts = _starts(options, sessions)
        turns = sorted(
            (round(start + turn.offset_s, 6), number, place, turn)
            for number, (start, session) in enumerate(zip(starts.tolist(), sessions, strict=True))
            for place, turn in enumerate(session)
        )
        requests = [_placed(turn.request, identifier, at) for identifier, (at, _, _, turn) in enumerate(turns)]
        longest = max((request.num_prompt_tokens for request in requests), default=0)
        found = Recorded(
            name=paths[0].stem if len(paths) == 1 else self.name,
            format=self.name,
            requests=requests,
            duration_s=observed_seconds(np.array([request.arrival_s for request in requests])),
            provenance=RECORDED,
            keys=[turn.model for *_, turn in turns],
            key_name="model",
            parameters={"arrivals": options.drawn_arrivals.partition(":")[0], "live_sessions": LIVE_SESSIONS},
            counts={reason: count for reason, count in skipped.items() if count},
            warnings=(
                f"recorded prompts have up to {longest:,} tokens: cap them (--max-prompt-tokens) where the model's "
                "context is shorter",
            )
            if longest > LONG_PROMPT
            else (),
        )
        return found.trace(options)


def _session(source: Source, name: str, skipped: dict[str, int]) -> list[_Turn]:
    """The turns of one file, in order of time. Mutates ``skipped``."""
    document = json_document(source)
    if type(document) is not dict or type(document.get("requests")) is not list:
        raise LibraError(f"{source.name}: must be a JSON object with a list of 'requests'")
    turns: list[_Turn] = []
    try:
        block_tokens = integer(document, "block_size", 1)
        prompts = BlockPrompts(block_tokens)
    except FieldFault as fault:
        raise LibraError(f"{source.name}: {fault}") from None
    orders: dict[str, Ordered] = {}
    for place, (session, entry) in enumerate(_entries(document["requests"], name, source.name), start=1):
        try:
            turn = _turn(entry, session, f"{name}.{place}", prompts, block_tokens)
            orders.setdefault(session, Ordered("t")).check(turn.offset_s)
        except FieldFault as fault:
            raise LibraError(f"{source.name}, request {place}: {fault}") from None
        if turn.request.output_tokens and turn.request.num_prompt_tokens:
            turns.append(turn)
        else:
            skipped["skipped_without_prompt_or_answer"] += 1
    return sorted(turns, key=lambda turn: turn.offset_s)


def _entries(entries: list[Any], session: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(session, request) of a document's entries, those of sub-agents after their place."""
    agents = 0
    for entry in entries:
        if type(entry) is not dict:
            raise LibraError(f"{where}: 'requests' must hold JSON objects only")
        if entry.get("type") != "subagent":
            yield session, entry
        elif type(entry.get("requests")) is list:
            agents += 1
            yield from _entries(entry["requests"], f"{session}.a{agents}", where)
        else:
            raise LibraError(f"{where}: a subagent entry must have a list of 'requests'")


def _turn(entry: dict[str, Any], session: str, name: str, prompts: BlockPrompts, block_tokens: int) -> _Turn:
    prompt_tokens, blocks = token_count(entry, "in"), hash_list(entry, "hash_ids")
    if len(blocks) < prompt_tokens // block_tokens:
        raise FieldFault("hash_ids", f"has {len(blocks)} blocks of {block_tokens} tokens for {prompt_tokens} tokens")
    space = name.partition(".")[0]
    request = Request(
        id=0,
        arrival_s=0.0,
        adapter=None,
        output_tokens=token_count(entry, "out"),
        prompt=prompts.prompt([f"{space}.b{block}" for block in blocks], prompt_tokens, f"{name}.p"),
        output=f"{name}.o",
        session=session,
    )
    return _Turn(seconds(entry, "t"), request, text(entry, "model"))


def _placed(request: Request, identifier: int, arrival_s: float) -> Request:
    return Request(
        id=identifier,
        arrival_s=arrival_s,
        adapter=None,
        output_tokens=request.output_tokens,
        prompt=request.prompt,
        output=request.output,
        session=request.session,
    )


def _starts(options: ReadOptions, sessions: Sequence[Sequence[_Turn]]) -> FloatArray:
    """When the sessions start, in the order of the files: in a drawn order they take the process's first times."""
    if not sessions:
        return np.empty(0)
    process = parse_arrivals(options.drawn_arrivals, options.burstiness)
    mean_s = max(sum(session[-1].offset_s for session in sessions) / len(sessions), 1.0)
    rate, end_s, count = LIVE_SESSIONS / mean_s, mean_s, len(sessions)
    while len(times := process.sample(generator(options.seed, "arrivals"), rate, 0.0, end_s, 1).times) < count:
        end_s *= 1.5
    starts: FloatArray = times[generator(options.seed, "sessions").permutation(count)]
    return starts
