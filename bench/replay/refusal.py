"""What an answer that is no event stream says: an error object, a page of a proxy, a whole completion."""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from bench.replay.faults import Fault, FaultKind
from bench.replay.http import Head

_DETAIL_CHARACTERS = 160


def plain_fault(head: Head, body: bytes) -> Fault:
    """The fault of a response that is no event stream."""
    detail = error_detail(body)
    if head.status == 200:
        return Fault(FaultKind.NOT_STREAMED, detail or head.headers.get("content-type", "no content type"))
    retry_after_s = _retry_after(head.headers.get("retry-after", ""))
    return Fault(FaultKind.HTTP, detail, head.status, retry_after_s)


def error_detail(body: bytes) -> str:
    """The message in a body that is an error object of OpenAI's shape or of FastAPI's, or the start of the body."""
    text = body.decode("utf-8", errors="replace")
    try:
        document = json.loads(text)
    except ValueError:
        return _short(text)
    if isinstance(document, dict):
        return error_message(document.get("error") or document.get("message") or document.get("detail") or document)
    return _short(text)


def error_message(error: object) -> str:
    """The message of an error object in OpenAI's shape, or whatever stands in its place, cut to one short line."""
    message = error.get("message", error) if isinstance(error, dict) else error
    return _short(message if isinstance(message, str) else json.dumps(message))


def _short(text: str) -> str:
    line = " ".join(text.encode(errors="replace").decode().split())  # half a surrogate pair fits into no file
    return line if len(line) <= _DETAIL_CHARACTERS else line[: _DETAIL_CHARACTERS - 1] + "…"


def _retry_after(value: str) -> float | None:
    """Seconds, from a number or from a date (RFC 9110, section 10.2.3); None for neither."""
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
