"""Azure's LLM inference traces (2023: Splitwise, ISCA 2024; 2024: DynamoLLM, arXiv 2408.00741): arrivals and lengths.

Both years have the columns TIMESTAMP, ContextTokens and GeneratedTokens. There are no sessions, no prefixes and no
adapters: every prompt is a text of its own, so no cache can hit, and adapters are drawn request by request.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from libra.request import Request
from workloads.formats import ReadOptions
from workloads.garbage import collection_paused
from workloads.header import Provenance
from workloads.recorded import Recorded
from workloads.rows import FieldFault
from workloads.sources import open_sources
from workloads.tables import Ordered, csv_rows, csv_tokens
from workloads.trace import Trace
from workloads.traps import arrival_warnings, context_cap_warnings
from workloads.unhashed import observed_seconds, unhashed_request

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
EPOCH = datetime(1970, 1, 1)
RECORDED = Provenance("drawn", "native", "native", "generated")


@dataclass(frozen=True)
class AzureLLMReader:
    """Reads the CSV files of either year. Rows of several files must follow each other in time."""

    name: str = "azure-llm"
    summary: str = "Azure's LLM services, 2023 and 2024: arrivals and lengths, no sessions, prefixes or adapters"
    required_columns: tuple[frozenset[str], ...] = (frozenset(COLUMNS),)
    provenance: Provenance = RECORDED

    @collection_paused()
    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files. Rows without a prompt or an answer are skipped and counted; other faults raise."""
        rows = _Rows()
        for source in open_sources(paths, options.max_bytes, (".csv",)):
            for request in csv_rows(source, COLUMNS, rows.parse):
                if request is not None:
                    rows.requests.append(request)
        arrivals = np.array([request.arrival_s for request in rows.requests])
        prompts = np.array([request.num_prompt_tokens for request in rows.requests], dtype=np.int64)
        found = Recorded(
            name=paths[0].stem,
            format=self.name,
            requests=rows.requests,
            duration_s=observed_seconds(arrivals),
            provenance=RECORDED,
            counts=dict(rows.skipped),
            warnings=(*arrival_warnings(arrivals), *context_cap_warnings("prompt", prompts)),
        )
        return found.trace(options)


class _Rows:
    """The requests read so far, with arrivals from the first of them on."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.skipped: Counter[str] = Counter()
        self._order = Ordered("TIMESTAMP")
        self._start_s: float | None = None

    def parse(self, fields: Sequence[str]) -> Request | None:
        time, prompt, output = fields
        now_s = epoch_seconds("TIMESTAMP", time)
        self._order.check(now_s)
        prompt_tokens, output_tokens = csv_tokens("ContextTokens", prompt), csv_tokens("GeneratedTokens", output)
        if not (prompt_tokens and output_tokens):
            self.skipped["skipped_without_prompt_or_answer"] += 1
            return None
        if self._start_s is None:
            self._start_s = now_s
        return unhashed_request(len(self.requests), round(now_s - self._start_s, 6), prompt_tokens, output_tokens)


def epoch_seconds(column: str, text: str) -> float:
    """Seconds since 1970, to the microsecond, of an ISO 8601 time such as ``2023-11-16 18:15:46.6805900``; a time
    without an offset is taken as UTC. Raises FieldFault."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise FieldFault(column, f"is {text[:40]!r}; it must be a time such as 2023-11-16 18:15:46.68") from None
    if time.tzinfo is not None:
        time = time.astimezone(UTC).replace(tzinfo=None)
    return (time - EPOCH).total_seconds()
