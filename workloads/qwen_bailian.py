"""Qwen-Bailian (KVCache in the Wild, USENIX ATC 2025, arXiv 2506.02634): two hours of one Qwen service.

Native: arrivals, lengths, sessions (through ``parent_chat_id``) and hashes of 16-token blocks, of the prompt. A block's
hash stands for its content alone. Drawn: adapters, one per session.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libra.request import Request
from workloads.block_prompts import BlockPrompts, hash_list
from workloads.formats import ReadOptions
from workloads.garbage import collection_paused
from workloads.header import Provenance
from workloads.recorded import Recorded
from workloads.rows import FieldFault, integer, seconds
from workloads.sources import open_sources
from workloads.tables import JsonObject, Ordered, json_rows, token_count
from workloads.trace import Trace
from workloads.traps import arrival_warnings
from workloads.unhashed import observed_seconds

BLOCK_TOKENS = 16
COLUMNS = frozenset({"chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "hash_ids"})
RECORDED = Provenance("drawn", "native", "native", "native")


@dataclass(frozen=True)
class QwenBailianReader:
    """Reads one file of JSON lines; chat ids and hashes of different files have nothing to do with each other."""

    name: str = "qwen-bailian"
    summary: str = "a Qwen service of Aliyun: sessions and prefix blocks of 16 tokens, no adapters"
    required_columns: tuple[frozenset[str], ...] = (COLUMNS,)
    provenance: Provenance = RECORDED

    @collection_paused()
    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files. Rows without a prompt or an answer are skipped and counted; other faults raise."""
        rows = _Rows()
        for number, source in enumerate(open_sources(paths, options.max_bytes, (".jsonl",))):
            rows.begin_file(f"f{number}." if number else "")
            for _ in json_rows(source, COLUMNS, rows.add):
                pass
        arrivals = np.array([request.arrival_s for request in rows.requests])
        found = Recorded(
            name=paths[0].stem,
            format=self.name,
            requests=rows.requests,
            duration_s=observed_seconds(arrivals),
            provenance=RECORDED,
            parameters={"block_tokens": BLOCK_TOKENS},
            counts=dict(rows.counts),
            warnings=arrival_warnings(arrivals),
        )
        return found.trace(options)


class _Rows:
    """The requests read so far."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()
        self._prompts = BlockPrompts(BLOCK_TOKENS)
        self._order = Ordered("timestamp")
        self._space = ""
        self._roots: dict[int, int] = {}

    def begin_file(self, space: str) -> None:
        """Later rows belong to another file, whose names begin with ``space``."""
        self._space, self._roots = space, {}

    def add(self, row: JsonObject) -> None:
        """Adds a row's request, or counts why not. Raises FieldFault."""
        chat, parent = integer(row, "chat_id", 0), integer(row, "parent_chat_id", -1)
        arrival_s = seconds(row, "timestamp")
        self._order.check(arrival_s)
        if chat in self._roots:
            raise FieldFault("chat_id", f"is {chat}, which an earlier row has")
        if parent >= 0 and parent not in self._roots:
            self.counts["turns_whose_parent_is_not_in_the_file"] += 1
        root = self._roots[chat] = self._roots.get(parent, chat)
        prompt_tokens, output_tokens = token_count(row, "input_length"), token_count(row, "output_length")
        blocks = hash_list(row, "hash_ids")
        if len(blocks) < prompt_tokens // BLOCK_TOKENS:
            raise FieldFault("hash_ids", f"has {len(blocks)} blocks of 16 tokens for {prompt_tokens} tokens")
        if not (prompt_tokens and output_tokens):
            self.counts["skipped_without_prompt_or_answer"] += 1
            return
        number, space = len(self.requests), self._space
        names = [f"{space}b{block}" for block in blocks]
        full = prompt_tokens // BLOCK_TOKENS
        rest = names[full] if full < len(names) else f"r{number}.p"
        self.requests.append(
            Request(
                id=number,
                arrival_s=arrival_s,
                adapter=None,
                output_tokens=output_tokens,
                prompt=self._prompts.prompt(names, prompt_tokens, rest),
                output=f"r{number}.o",
                session=f"{space}c{root}",
            )
        )
