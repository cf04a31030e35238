"""LMCache's agent traces: sessions of agents with the text of every call, such as those of tau-bench.

A row is one call: ``timestamp`` in microseconds, ``input``, ``output``, ``session_id``. Native: arrivals and sessions.
Mapped from the text: lengths and prefixes. An empty output is a tool call whose text is not recorded, so its length is
drawn from the agents' scenario. Rows come as the calls ended, so they are sorted by time.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_hexdigest

from libra.request import Request, Segment
from workloads.agents import AGENTS
from workloads.block_prompts import BlockPrompts
from workloads.distributions import whole_tokens
from workloads.formats import ReadOptions
from workloads.garbage import collection_paused
from workloads.header import Provenance
from workloads.recorded import Recorded
from workloads.rows import FieldFault, integer, text
from workloads.seeds import generator
from workloads.sources import open_sources
from workloads.tables import JsonObject, json_rows
from workloads.text import Encoder, make_encoder
from workloads.trace import Trace
from workloads.traps import arrival_warnings
from workloads.unhashed import observed_seconds

BLOCK_TOKENS = 16
COLUMNS = frozenset({"timestamp", "input", "output", "session_id"})
RECORDED = Provenance("drawn", "native", "mapped", "mapped")


class _Call(NamedTuple):
    timestamp_us: int
    session: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class LMCacheAgentReader:
    """Reads JSON lines, one session or several per file."""

    name: str = "lmcache-agent"
    summary: str = "agent sessions with text (tau-bench): arrivals, sessions and texts, no adapters"
    required_columns: tuple[frozenset[str], ...] = (COLUMNS,)
    provenance: Provenance = RECORDED

    @collection_paused()
    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files. Calls without an input are skipped and counted; other faults raise."""
        calls, counts = _read_calls(paths, options)
        arrivals = np.array([(call.timestamp_us - calls[0].timestamp_us) / 1e6 for call in calls])
        encoder = make_encoder(options.text)
        answers, drawn = _answer_tokens(calls, encoder, options.seed)
        if drawn:
            counts["answers_without_text_drawn"] = drawn
        found = Recorded(
            name=paths[0].stem if len(paths) == 1 else self.name,
            format=self.name,
            requests=_requests(calls, arrivals.tolist(), answers, encoder, options.text.bytes_per_token),
            duration_s=observed_seconds(arrivals),
            provenance=replace(RECORDED, length_source="drawn") if drawn else RECORDED,
            parameters={**encoder.parameters, "block_tokens": BLOCK_TOKENS},
            counts=dict(counts),
            warnings=arrival_warnings(arrivals),
        )
        return found.trace(options)


def _read_calls(paths: Sequence[Path], options: ReadOptions) -> tuple[list[_Call], Counter[str]]:
    """The calls in order of time, and what was skipped or moved."""
    counts: Counter[str] = Counter()
    calls: list[_Call] = []

    def add(row: JsonObject) -> None:
        call = _Call(
            integer(row, "timestamp", 0), text(row, "session_id"), _string(row, "input"), _string(row, "output")
        )
        if call.prompt:
            calls.append(call)
        else:
            counts["skipped_without_prompt"] += 1

    for source in open_sources(paths, options.max_bytes, (".jsonl",)):
        before = len(calls)
        for _ in json_rows(source, COLUMNS, add):
            pass
        found = calls[before:]
        counts["rows_out_of_order_sorted"] += sum(
            later.timestamp_us < earlier.timestamp_us for earlier, later in pairwise(found)
        )
    calls.sort(key=lambda call: call.timestamp_us)
    return calls, Counter({reason: count for reason, count in counts.items() if count})


def _string(row: JsonObject, field: str) -> str:
    value = row[field]
    if type(value) is not str:
        raise FieldFault(field, "must be text")
    return value


def _answer_tokens(calls: Sequence[_Call], encoder: Encoder, seed: int) -> tuple[list[int], int]:
    """The length of every answer, and how many are drawn for want of a text."""
    missing = [place for place, call in enumerate(calls) if not call.answer]
    lengths, _ = encoder.encode([call.answer for call in calls])
    drawn = whole_tokens(
        AGENTS.answer_tokens.sample(generator(seed, "answers"), len(missing)), AGENTS.max_context_tokens
    )
    for place, length in zip(missing, drawn.tolist(), strict=True):
        lengths[place] = length
    return lengths, len(missing)


def _requests(
    calls: Sequence[_Call], arrivals: Sequence[float], answers: Sequence[int], encoder: Encoder, bytes_per_token: float
) -> list[Request]:
    prompt_tokens, ids = encoder.encode([call.prompt for call in calls])
    prompts, block_bytes = BlockPrompts(BLOCK_TOKENS), max(1, round(BLOCK_TOKENS * bytes_per_token))
    requests = []
    for number, (call, arrival_s) in enumerate(zip(calls, arrivals, strict=True)):
        segments: tuple[Segment, ...] = ()
        if not ids:
            blocks, rest = _blocks(call.prompt, block_bytes)
            segments = prompts.prompt(blocks, prompt_tokens[number], rest)
        request = Request(
            id=number,
            arrival_s=round(arrival_s, 6),
            adapter=None,
            output_tokens=answers[number],
            prompt=segments,
            prompt_token_ids=tuple(ids[number].tolist()) if ids else None,
            output=f"r{number}.o",
            session=call.session,
        )
        requests.append(request)
    return requests


def _blocks(prompt: str, block_bytes: int) -> tuple[list[str], str]:
    """Names of the prompt's blocks, so that equal beginnings have equal names, and a name for what follows them."""
    raw, names, chain = prompt.encode(), [], ""
    whole = len(raw) // block_bytes * block_bytes
    for start in range(0, whole, block_bytes):
        chain = xxh3_64_hexdigest(chain.encode() + raw[start : start + block_bytes])
        names.append(f"b{chain}")
    return names, f"p{xxh3_64_hexdigest(chain.encode() + raw[whole:])}"
