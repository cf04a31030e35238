"""Mooncake: Kimi's conversation trace (arXiv 2407.00079): arrivals, lengths and hashes of 512-token prefix blocks.

Native: lengths and prefix blocks. Mapped: arrivals, where timestamps come in 3 s lumps, by spreading a lump's requests
uniformly over it in their recorded order. Drawn: adapters, one per inferred session. An answer's tokens are never part
of a later prompt's blocks, as far as the trace tells, so answers count in no prefix hit and every hit rate of this
trace is one of prompts alone. A block's hash stands for the whole prefix, so a last, partial block matches only itself.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libra.request import Request, Segment
from workloads.arrivals import FloatArray
from workloads.block_prompts import hash_list
from workloads.formats import ReadOptions
from workloads.header import Provenance
from workloads.recorded import Recorded
from workloads.rows import FieldFault, integer
from workloads.seeds import generator
from workloads.sources import open_sources
from workloads.tables import JsonObject, Ordered, json_rows, token_count
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
COLUMNS = frozenset({"timestamp", "input_length", "output_length", "hash_ids"})


@dataclass(frozen=True)
class MooncakeReader:
    """Reads the JSON lines of Mooncake's published traces. Rows of several files must follow each other in time."""

    name: str = "mooncake"
    summary: str = "Kimi's conversation trace: prefix blocks of 512 tokens, no adapters"
    required_columns: tuple[frozenset[str], ...] = (COLUMNS,)
    provenance: Provenance = RECORDED

    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files. Rows without a prompt or an answer are skipped and counted; other faults raise."""
        rows, skipped = _read_rows(paths, options)
        sessions = infer_sessions([row.blocks for row in rows])
        lump_s = _lump_seconds([row.timestamp_ms for row in rows])
        arrivals = _spread(np.array([row.timestamp_ms for row in rows]) / 1000, lump_s, options.seed)
        requests = [
            _request(identifier, row, arrival_s, session)
            for identifier, (row, arrival_s, session) in enumerate(zip(rows, arrivals.tolist(), sessions, strict=True))
        ]
        found = Recorded(
            name=paths[0].stem,
            format=self.name,
            requests=requests,
            duration_s=_duration(rows, lump_s),
            provenance=replace(RECORDED, arrival_source="mapped") if lump_s else RECORDED,
            parameters={"timestamp_lump_s": lump_s, "max_session_branches": MAX_SESSION_BRANCHES},
            counts=skipped,
            warnings=arrival_warnings(arrivals),
        )
        return found.trace(options)


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


def _request(identifier: int, row: _Row, arrival_s: float, session: int) -> Request:
    last = row.prompt_tokens - BLOCK_TOKENS * (len(row.blocks) - 1)
    segments = [Segment(f"b{block}", 0, BLOCK_TOKENS) for block in row.blocks[:-1]]
    return Request(
        id=identifier,
        arrival_s=arrival_s,
        adapter=None,
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
    last_s = rows[-1].timestamp_ms / 1000 if rows else 0.0
    return round(last_s + (lump_s or max(last_s / max(len(rows), 1), 1e-3)), 6)


def _read_rows(paths: Sequence[Path], options: ReadOptions) -> tuple[list[_Row], dict[str, int]]:
    skipped: Counter[str] = Counter()
    order = Ordered("timestamp")

    def parse(value: JsonObject) -> _Row | None:
        row = _parse_row(value)
        order.check(row.timestamp_ms)
        if row.prompt_tokens and row.output_tokens:
            return row
        skipped["skipped_without_prompt_or_answer"] += 1
        return None

    rows = [
        row
        for source in open_sources(paths, options.max_bytes, (".jsonl",))
        for row in json_rows(source, COLUMNS, parse)
        if row is not None
    ]
    return rows, dict(skipped)


def _parse_row(value: JsonObject) -> _Row:
    prompt_tokens, blocks = token_count(value, "input_length"), tuple(hash_list(value, "hash_ids"))
    needed = -(-prompt_tokens // BLOCK_TOKENS)
    if len(blocks) != needed:
        raise FieldFault("hash_ids", f"has {len(blocks)} blocks; {prompt_tokens} tokens need {needed}")
    return _Row(integer(value, "timestamp", 0), prompt_tokens, token_count(value, "output_length"), blocks)
