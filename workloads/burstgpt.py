"""BurstGPT (arXiv 2401.17644): two services of a university over months: arrivals, lengths, model and log type.

A row without response tokens is a failed request. Later releases add a session id and an elapsed time. Prompts are not
recorded, so every prompt is a text of its own; the model is what adapters are mapped from.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libra.request import Request
from workloads.formats import ReadOptions
from workloads.garbage import collection_paused
from workloads.header import Provenance
from workloads.recorded import Recorded
from workloads.rows import FieldFault
from workloads.sources import open_sources
from workloads.tables import Ordered, csv_rows, csv_tokens, finite_number
from workloads.trace import Trace
from workloads.traps import arrival_warnings
from workloads.unhashed import observed_seconds, unhashed_request

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens", "Log Type")
SESSION = "Session ID"
RECORDED = Provenance("mapped", "native", "native", "generated")


@dataclass(frozen=True)
class BurstGPTReader:
    """Reads the CSV files, with sessions where they have a session id. Times of several files must go on."""

    name: str = "burstgpt"
    summary: str = "ChatGPT and GPT-4 of a university: arrivals, lengths and model over months, no prefixes"
    required_columns: tuple[frozenset[str], ...] = (frozenset(COLUMNS),)
    provenance: Provenance = RECORDED

    @collection_paused()
    def read(self, paths: Sequence[Path], options: ReadOptions) -> Trace:
        """Converts files. Failed rows and rows without a prompt are skipped and counted; other faults raise."""
        rows = _Rows()
        for source in open_sources(paths, options.max_bytes, (".csv",)):
            for _ in csv_rows(source, COLUMNS, rows.add, optional=(SESSION,)):
                pass
        arrivals = np.array([request.arrival_s for request in rows.requests])
        found = Recorded(
            name=paths[0].stem,
            format=self.name,
            requests=rows.requests,
            duration_s=observed_seconds(arrivals),
            provenance=RECORDED,
            keys=rows.models,
            key_name="model",
            counts=dict(rows.skipped),
            warnings=arrival_warnings(arrivals),
        )
        return found.trace(options)


class _Rows:
    """The requests and their models read so far, with arrivals from the first of them on."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.models: list[str] = []
        self.skipped: Counter[str] = Counter()
        self._order = Ordered("Timestamp")
        self._start_s: float | None = None

    def add(self, fields: Sequence[str]) -> None:
        """Adds a row's request, or counts why not. Raises FieldFault."""
        time, model, prompt, output, _, session = fields
        now_s = finite_number("Timestamp", time)
        self._order.check(now_s)
        prompt_tokens, output_tokens = csv_tokens("Request tokens", prompt), csv_tokens("Response tokens", output)
        if not model:
            raise FieldFault("Model", "is empty")
        if not output_tokens:
            self.skipped["skipped_failed_without_response"] += 1
            return
        if not prompt_tokens:
            self.skipped["skipped_without_prompt"] += 1
            return
        if self._start_s is None:
            self._start_s = now_s
        arrival_s = round(now_s - self._start_s, 6)
        number = len(self.requests)
        self.requests.append(unhashed_request(number, arrival_s, prompt_tokens, output_tokens, session.strip() or None))
        self.models.append(model)
