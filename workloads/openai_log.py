"""The request log of libra's own OpenAI-compatible server, and of any server that writes the same: JSON lines, no text.

One object per finished request:

    {"timestamp": 1760587666.509, "adapter": "support-de", "prompt_tokens": 812, "output_tokens": 96,
     "session": "c1f0", "block_tokens": 32, "prefix_hashes": ["9f86d081884c7d65", "60303ae22b998861"]}

``timestamp`` is the arrival in seconds since 1970, ``adapter`` null for the base model. ``session`` may be left out.
``prefix_hashes`` may be left out; else it has one text per full block of ``block_tokens`` prompt tokens, which is equal
for equal blocks and says nothing else of them. ``error``, where it is there and not null, marks a failed request.
Servers write a line when a request ends, so lines are sorted by arrival here. Any other field is refused: a log with
prompts in it does not belong in a trace.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libra.errors import LibraError
from libra.request import Request
from workloads.block_prompts import BlockPrompts
from workloads.formats import ReadOptions
from workloads.garbage import collection_paused
from workloads.header import Provenance
from workloads.recorded import Recorded
from workloads.rows import FieldFault, integer, require_known, seconds, text
from workloads.sources import open_sources
from workloads.tables import JsonObject, json_rows, token_count
from workloads.trace import Trace
from workloads.traps import arrival_warnings
from workloads.unhashed import observed_seconds

REQUIRED = frozenset({"timestamp", "adapter", "prompt_tokens", "output_tokens"})
FIELDS = REQUIRED | {"session", "block_tokens", "prefix_hashes", "error"}
RECORDED = Provenance("native", "native", "native", "native")


class _Entry(NamedTuple):
    timestamp: float
    adapter: str | None
    prompt_tokens: int
    output_tokens: int
    session: str | None
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class OpenAILogReader:
    """Reads request logs; blocks of all files are of one size."""

    name: str = "openai-log"
    summary: str = "the request log of libra's server: arrivals, adapters, lengths, sessions, hashed prefix blocks"
    required_columns: tuple[frozenset[str], ...] = (REQUIRED,)
    provenance: Provenance = RECORDED

    @collection_paused()
    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files. Failed requests and those without an answer are skipped and counted; other faults raise."""
        log = _Log()
        for source in open_sources(paths, options.max_bytes, (".jsonl",)):
            for _ in json_rows(source, REQUIRED, log.add):
                pass
        out_of_order = sum(later.timestamp < earlier.timestamp for earlier, later in pairwise(log.entries))
        if out_of_order:
            log.counts["rows_out_of_order_sorted"] = out_of_order
        entries = sorted(log.entries, key=lambda entry: entry.timestamp)
        arrivals = np.array([round(entry.timestamp - entries[0].timestamp, 6) for entry in entries])
        hashed = log.block_tokens is not None
        found = Recorded(
            name=paths[0].stem,
            format=self.name,
            requests=_requests(entries, arrivals.tolist(), log.block_tokens or 1),
            duration_s=observed_seconds(arrivals),
            provenance=RECORDED if hashed else replace(RECORDED, prefix_source="generated"),
            keys=[entry.adapter for entry in entries],
            key_name="adapter",
            parameters={"block_tokens": log.block_tokens},
            counts=dict(log.counts),
            warnings=arrival_warnings(arrivals),
        )
        return found.trace(options)


class _Log:
    """The entries read so far; ``block_tokens`` is None until one has hashes."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.counts: Counter[str] = Counter()
        self.block_tokens: int | None = None

    def add(self, row: JsonObject) -> None:
        """Adds an entry, or counts why not. Raises FieldFault."""
        try:
            require_known(row, FIELDS, "log field")
        except LibraError as error:
            raise FieldFault("row", f"has a field that is not of the log: {error}") from None
        entry = _Entry(
            timestamp=seconds(row, "timestamp"),
            adapter=None if row["adapter"] is None else text(row, "adapter"),
            prompt_tokens=token_count(row, "prompt_tokens"),
            output_tokens=token_count(row, "output_tokens"),
            session=None if row.get("session") is None else text(row, "session"),
            blocks=self._blocks(row),
        )
        if row.get("error") is not None:
            self.counts["skipped_failed"] += 1
        elif not (entry.prompt_tokens and entry.output_tokens):
            self.counts["skipped_without_prompt_or_answer"] += 1
        else:
            self.entries.append(entry)

    def _blocks(self, row: JsonObject) -> tuple[str, ...]:
        hashes = row.get("prefix_hashes")
        if hashes is None:
            return ()
        if type(hashes) is not list or any(type(value) is not str or not value for value in hashes):
            raise FieldFault("prefix_hashes", "must be a list of non-empty strings")
        block_tokens = integer(row, "block_tokens", 1)
        if self.block_tokens not in (None, block_tokens):
            raise FieldFault("block_tokens", f"is {block_tokens} where earlier rows have {self.block_tokens}")
        if len(hashes) != token_count(row, "prompt_tokens") // block_tokens:
            raise FieldFault(
                "prefix_hashes", f"has {len(hashes)} entries; it must have one per full block of the prompt"
            )
        self.block_tokens = block_tokens
        return tuple(hashes)


def _requests(entries: Sequence[_Entry], arrivals: Sequence[float], block_tokens: int) -> list[Request]:
    prompts = BlockPrompts(block_tokens)
    return [
        Request(
            id=number,
            arrival_s=arrival_s,
            adapter=None,
            output_tokens=entry.output_tokens,
            prompt=prompts.prompt([f"b{block}" for block in entry.blocks], entry.prompt_tokens, f"r{number}.p"),
            output=f"r{number}.o",
            session=entry.session,
        )
        for number, (entry, arrival_s) in enumerate(zip(entries, arrivals, strict=True))
    ]
