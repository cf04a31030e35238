"""Mooncake: Kimi's conversation trace (arXiv 2407.00079): arrivals, lengths and hashes of 512-token prefix blocks.

Native: lengths and prefix blocks. Mapped: arrivals, where timestamps come in 3 s lumps, by spreading a lump's requests
uniformly over it in their recorded order. Drawn: adapters, one per inferred session. An answer's tokens are never part
of a later prompt's blocks, as far as the trace tells, so answers count in no prefix hit and every hit rate of this
trace is one of prompts alone. A block's hash stands for the whole prefix, so a last, partial block matches only itself.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libra.errors import LibraError
from libra.request import Request, Segment
from workloads.arrivals import FloatArray
from workloads.files import text_lines
from workloads.formats import AdapterMapping
from workloads.header import Provenance, TraceHeader
from workloads.rows import FieldFault, integer
from workloads.seeds import generator
from workloads.trace import Trace
from workloads.traps import arrival_warnings

BLOCK_TOKENS = 512
# A block that more different blocks follow than this is a system prompt shared by sessions. In the published
# conversation trace one block is followed by 3,627 others and the next most shared by 9.
MAX_SESSION_BRANCHES = 16
# Timestamps this many milliseconds apart or more are a clock's ticks, not arrivals.
MIN_LUMP_MS = 1000


class _Row(NamedTuple):
    timestamp_ms: int
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


RECORDED = Provenance("drawn", "native", "native", "native")


@dataclass(frozen=True)
class MooncakeReader:
    """Reads the JSON lines of Mooncake's published traces."""

    name: str = "mooncake"
    required_columns: frozenset[str] = frozenset({"timestamp", "input_length", "output_length", "hash_ids"})
    provenance: Provenance = RECORDED

    def read(self, path: Path, mapping: AdapterMapping) -> Trace:
        """Converts a file. Rows without a prompt or an answer are skipped and counted; other faults raise."""
        rows, skipped = _read_rows(path, self.required_columns)
        sessions = infer_sessions([row.blocks for row in rows])
        lump_s = _lump_seconds([row.timestamp_ms for row in rows])
        arrivals = _spread(np.array([row.timestamp_ms for row in rows]) / 1000, lump_s, mapping.seed)
        adapters = mapping.draw(sessions)
        requests = tuple(
            _request(identifier, row, arrival_s, session, adapters[session])
            for identifier, (row, arrival_s, session) in enumerate(zip(rows, arrivals.tolist(), sessions, strict=True))
        )
        provenance = replace(RECORDED, arrival_source="mapped") if lump_s else RECORDED
        header = TraceHeader(
            name=path.stem,
            seed=mapping.seed,
            provenance=provenance,
            duration_s=_duration(rows, lump_s),
            adapters=dict.fromkeys(mapping.names()),
            parameters={
                "format": self.name,
                "num_adapters": mapping.num_adapters,
                "popularity": mapping.popularity,
                "timestamp_lump_s": lump_s,
                "max_session_branches": MAX_SESSION_BRANCHES,
            },
            counts=skipped,
            warnings=arrival_warnings(arrivals),
        )
        return Trace(header, requests)


def infer_sessions(chains: Sequence[Sequence[int]]) -> list[int]:
    """A session number per chain of prefix blocks: chains with the same first block after any system prompt are one.

    Sessions are numbered in order of appearance; a chain that is nothing but system prompt is a session of its own.
    """
    shared = _system_blocks(chains)
    sessions: list[int] = []
    known: dict[int, int] = {}
    started = 0
    for chain in chains:
        first = next((block for block in chain if block not in shared), None)
        session = started if first is None else known.setdefault(first, started)
        started += session == started
        sessions.append(session)
    return sessions


def _system_blocks(chains: Iterable[Sequence[int]]) -> set[int]:
    """Blocks that more than MAX_SESSION_BRANCHES different ones follow, and all blocks before them."""
    followers: defaultdict[int, set[int]] = defaultdict(set)
    for chain in chains:
        for block, follower in pairwise(chain):
            followers[block].add(follower)
    hubs = {block for block, after in followers.items() if len(after) > MAX_SESSION_BRANCHES}
    shared: set[int] = set()
    for chain in chains:
        last_hub = max((place for place, block in enumerate(chain) if block in hubs), default=-1)
        shared.update(chain[: last_hub + 1])
    return shared


def _request(identifier: int, row: _Row, arrival_s: float, session: int, adapter: str) -> Request:
    last = row.prompt_tokens - BLOCK_TOKENS * (len(row.blocks) - 1)
    segments = [Segment(f"b{block}", 0, BLOCK_TOKENS) for block in row.blocks[:-1]]
    return Request(
        id=identifier,
        arrival_s=arrival_s,
        adapter=adapter,
        output_tokens=row.output_tokens,
        prompt=(*segments, Segment(f"b{row.blocks[-1]}", 0, last)),
        output=f"r{identifier}.o",
        session=f"s{session}",
    )


def _lump_seconds(timestamps_ms: Sequence[int]) -> float:
    """The clock's tick in seconds where timestamps come in lumps, else 0."""
    distinct = np.unique(np.array(timestamps_ms))
    if len(distinct) < 2 or len(distinct) == len(timestamps_ms):
        return 0.0
    gaps = np.diff(distinct)
    return round(float(np.median(gaps)) / 1000, 3) if gaps.min() >= MIN_LUMP_MS else 0.0


def _spread(times: FloatArray, lump_s: float, seed: int) -> FloatArray:
    """Arrivals with each lump's requests at uniform places inside it, keeping their recorded order."""
    if not lump_s:
        return times
    starts, lumps = np.unique(times, return_inverse=True)
    widths = np.minimum(np.diff(starts, append=starts[-1] + lump_s), lump_s)
    places = generator(seed, "lumps").random(len(times))
    return np.round(times + widths[lumps] * places[np.lexsort((places, lumps))], 6)


def _duration(rows: Sequence[_Row], lump_s: float) -> float:
    """To the end of the last lump, or one mean gap past the last request."""
    last_s = rows[-1].timestamp_ms / 1000
    return round(last_s + (lump_s or max(last_s / len(rows), 1e-3)), 6)


def _read_rows(path: Path, columns: frozenset[str]) -> tuple[list[_Row], dict[str, int]]:
    rows: list[_Row] = []
    skipped: defaultdict[str, int] = defaultdict(int)
    for number, line in enumerate(text_lines(path), start=1):
        try:
            row = _parse_row(line, columns)
            if rows and row.timestamp_ms < rows[-1].timestamp_ms:
                raise FieldFault("timestamp", f"is {row.timestamp_ms} after {rows[-1].timestamp_ms}; sort the rows")
        except FieldFault as fault:
            raise LibraError(f"{path}, row {number}: {fault}") from None
        reason = "" if row.prompt_tokens and row.output_tokens else "skipped_without_prompt_or_answer"
        if reason:
            skipped[reason] += 1
        else:
            rows.append(row)
    if not rows:
        raise LibraError(f"{path}: no request in this file; is it a Mooncake trace?")
    return rows, dict(skipped)


def _parse_row(line: str, columns: frozenset[str]) -> _Row:
    try:
        value = json.loads(line)
    except ValueError as error:
        cut = "" if line.endswith("\n") else "; the file is cut short"
        raise FieldFault("row", f"is not JSON ({error}){cut}") from None
    if type(value) is not dict or not columns <= value.keys():
        raise FieldFault("row", f"must be a JSON object with {', '.join(sorted(columns))}")
    prompt_tokens, blocks = integer(value, "input_length", 0), _blocks(value)
    needed = -(-prompt_tokens // BLOCK_TOKENS)
    if len(blocks) != needed:
        raise FieldFault("hash_ids", f"has {len(blocks)} blocks; {prompt_tokens} tokens need {needed}")
    return _Row(integer(value, "timestamp", 0), prompt_tokens, integer(value, "output_length", 0), blocks)


def _blocks(value: dict[str, object]) -> tuple[int, ...]:
    blocks = value["hash_ids"]
    if type(blocks) is not list or any(type(block) is not int for block in blocks):
        raise FieldFault("hash_ids", "must be a list of integers")
    return tuple(blocks)
