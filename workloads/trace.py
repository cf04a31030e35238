"""The trace format: JSON lines, a header first, then one request a line, sorted by arrival (docs/workloads.md)."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from libra.errors import LibraError, unknown
from libra.request import Request
from workloads.files import replace_file, text_lines
from workloads.garbage import collection_paused
from workloads.header import TraceHeader, header_row, parse_header
from workloads.rows import FieldFault, Interner, parse_request


@dataclass(frozen=True)
class Trace:
    """A workload: its header and its requests, sorted by arrival."""

    header: TraceHeader
    requests: tuple[Request, ...]

    @property
    def request_rate(self) -> float:
        """Requests per second over the trace's window; infinite where all arrive at once."""
        return len(self.requests) / self.header.duration_s if self.header.duration_s else math.inf


def read_trace(path: Path) -> Trace:
    """Reads and validates a trace file.

    Raises LibraError with the file, the line, the field and the fix for anything that is not a valid trace.
    """
    return parse_trace(text_lines(path), str(path))


@collection_paused()
def parse_trace(lines: Iterable[str], source: str) -> Trace:
    """A trace from its lines; ``source`` names them in errors. Lines are read once, so they may be a stream."""
    stream = iter(lines)
    try:
        header, announced = parse_header(_json_value(next(stream, "")))
    except (FieldFault, LibraError) as fault:
        raise LibraError(f"{source}, line 1: {fault}") from None
    requests = tuple(_parse_requests(stream, source, header.adapters))
    if not requests:
        raise LibraError(f"{source}: the trace has a header and no requests; add at least one")
    if announced is not None and announced != len(requests):
        raise LibraError(
            f"{source}: the header announces {announced} requests but {len(requests)} follow; "
            "the file was cut short or edited: copy it again, or correct 'num_requests'"
        )
    return Trace(_with_adapters(header, requests), requests)


def write_trace(path: Path, trace: Trace) -> None:
    """Writes ``trace`` to ``path``, whole or not at all. Raises LibraError where the place cannot be written."""
    replace_file(path, trace_lines(trace))


def trace_lines(trace: Trace) -> Iterator[str]:
    """The lines of the file that write_trace writes."""
    yield _line(header_row(trace.header, len(trace.requests)))
    for request in trace.requests:
        yield _line(_request_row(request))


def trace_sha256(trace: Trace) -> str:
    """The sha256 of the file that write_trace writes, for a run's meta.json."""
    digest = hashlib.sha256()
    for line in trace_lines(trace):
        digest.update(line.encode())
    return digest.hexdigest()


def _parse_requests(lines: Iterator[str], source: str, adapters: Mapping[str, int | None]) -> Iterator[Request]:
    interner = Interner()
    ids: set[int] = set()
    session_adapters: dict[str, str | None] = {}
    previous_s = 0.0
    for number, line in enumerate(lines, start=2):
        try:
            request = parse_request(_json_value(line), interner)
            _check_against_earlier(request, previous_s, ids)
            _check_adapter(request, adapters, session_adapters)
        except (FieldFault, LibraError) as fault:
            raise LibraError(f"{source}, line {number}: {fault}") from None
        previous_s = request.arrival_s
        ids.add(request.id)
        yield request


def _check_against_earlier(request: Request, previous_s: float, ids: set[int]) -> None:
    if request.arrival_s < previous_s:
        raise FieldFault("arrival_s", f"is {request.arrival_s} after {previous_s}; sort the rows by arrival_s")
    if request.id in ids:
        raise FieldFault("id", f"is {request.id}, which an earlier row has; give every request its own")
    for earlier in request.after:
        if earlier not in ids:
            raise FieldFault(
                "after", f"names request {earlier}, which no earlier row has; a request waits for earlier rows"
            )


def _check_adapter(request: Request, adapters: Mapping[str, int | None], sessions: dict[str, str | None]) -> None:
    adapter, session = request.adapter, request.session
    if adapters and adapter is not None and adapter not in adapters:
        raise unknown("adapter", adapter, adapters)
    if session is not None and sessions.setdefault(session, adapter) != adapter:
        raise FieldFault(
            "adapter",
            f"is {adapter!r} but session {session!r} began with {sessions[session]!r}; "
            "an adapter is constant along a session: give this request another session",
        )


def _with_adapters(header: TraceHeader, requests: tuple[Request, ...]) -> TraceHeader:
    """The header with its adapters gathered from the requests where a hand-written trace lists none."""
    if header.adapters:
        return header
    return replace(header, adapters={request.adapter: None for request in requests if request.adapter is not None})


def _json_value(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        if not line.endswith("\n"):
            raise FieldFault("row", "is cut short: the file ends in the middle of a line; copy it again") from None
        raise FieldFault("row", f"is not JSON ({error})") from None


def _request_row(request: Request) -> dict[str, Any]:
    row: dict[str, Any] = {"id": request.id, "arrival_s": request.arrival_s}
    if request.adapter is not None:
        row["adapter"] = request.adapter
    if request.session is not None:
        row["session"] = request.session
    if request.task is not None:
        row["task"] = request.task
    if request.after:
        row |= {"after": request.after, "delay_s": request.delay_s}
    if request.prompt_token_ids is not None:
        row["prompt_token_ids"] = request.prompt_token_ids
    else:
        row["prompt"] = request.prompt
    row["output_tokens"] = request.output_tokens
    if request.output is not None:
        row["output"] = request.output
    if request.output_token_ids is not None:
        row["output_token_ids"] = request.output_token_ids
    return row


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n"
