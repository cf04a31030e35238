"""Validates the rows of a libra trace: JSON values in, Request out, and a fault that names the field."""

from typing import Any

from libra.errors import unknown
from libra.request import Request, Segment

REQUEST_FIELDS = frozenset(
    {
        "id",
        "arrival_s",
        "adapter",
        "session",
        "task",
        "after",
        "delay_s",
        "prompt",
        "prompt_token_ids",
        "output_tokens",
        "output",
        "output_token_ids",
    }
)
MAX_TOKEN_ID = 2**32 - 1
MAX_SECONDS = 1e12


class FieldFault(Exception):
    """What is wrong with one field; the reader adds the file and the line."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field!r} {problem}")


class Interner:
    """Keeps one object per equal segment and string, so that a million rows with long shared histories stay small."""

    def __init__(self) -> None:
        self._strings: dict[str, str] = {}
        self._segments: dict[tuple[str, int, int], Segment] = {}

    def string(self, value: str) -> str:
        return self._strings.setdefault(value, value)

    def segment(self, identifier: str, start: int, length: int) -> Segment:
        known = self._segments.get((identifier, start, length))
        if known is None:
            known = Segment(identifier, start, length)
            self._segments[known] = known
        return known


def require_known(row: dict[str, Any], fields: frozenset[str], kind: str) -> None:
    """Raises LibraError, with the nearest valid name, when the row has a field the format does not."""
    for name in row:
        if name not in fields:
            raise unknown(kind, name, fields)


def integer(row: dict[str, Any], field: str, minimum: int) -> int:
    value = _present(row, field)
    if type(value) is not int:  # a bool is an int to isinstance
        raise FieldFault(field, f"must be an integer, not {_show(value)}")
    if value < minimum:
        raise FieldFault(field, f"is {value}; it must be {minimum} or more")
    return value


def seconds(row: dict[str, Any], field: str) -> float:
    value = _present(row, field)
    if type(value) is not float and type(value) is not int:
        raise FieldFault(field, f"must be a number of seconds, not {_show(value)}")
    if not 0 <= value <= MAX_SECONDS:  # false for NaN too
        raise FieldFault(field, f"is {_show(value)}; it must be finite and 0 or more")
    return float(value)


def text(row: dict[str, Any], field: str) -> str:
    value = _present(row, field)
    if type(value) is not str or not value:
        raise FieldFault(field, f"must be a non-empty string, not {_show(value)}")
    return value


def parse_request(row: object, interner: Interner) -> Request:
    """One row as a Request.

    Raises FieldFault for a wrong value and LibraError for an unknown field. Mutates ``interner``.
    """
    if type(row) is not dict:
        raise FieldFault("row", f"must be a JSON object, not {_show(row)}")
    if not row.keys() <= REQUEST_FIELDS:
        require_known(row, REQUEST_FIELDS, "trace field")
    output_tokens = integer(row, "output_tokens", 1)
    prompt, prompt_token_ids = _prompt(row, interner)
    return Request(
        id=integer(row, "id", 0),
        arrival_s=seconds(row, "arrival_s"),
        adapter=_optional_text(row, "adapter", interner),
        output_tokens=output_tokens,
        prompt=prompt,
        prompt_token_ids=prompt_token_ids,
        output=_optional_text(row, "output", interner),
        output_token_ids=_output_token_ids(row, output_tokens),
        session=_optional_text(row, "session", interner),
        task=_optional_text(row, "task", interner),
        after=_after(row),
        delay_s=_delay(row),
    )


def _prompt(row: dict[str, Any], interner: Interner) -> tuple[tuple[Segment, ...], tuple[int, ...] | None]:
    if ("prompt" in row) == ("prompt_token_ids" in row):
        raise FieldFault("prompt", "or 'prompt_token_ids' must be there, and not both")
    if "prompt_token_ids" in row:
        return (), _token_ids(row, "prompt_token_ids")
    segments = row["prompt"]
    if type(segments) is not list or not segments:
        raise FieldFault("prompt", f"must be a non-empty list of [id, start, length], not {_show(segments)}")
    return tuple([_segment(segment, interner) for segment in segments]), None


def _segment(value: object, interner: Interner) -> Segment:
    if type(value) is not list or len(value) != 3:
        raise FieldFault("prompt", f"holds {_show(value)}; a segment is [id, start, length]")
    identifier, start, length = value
    if type(identifier) is not str or type(start) is not int or type(length) is not int:
        raise FieldFault("prompt", f"holds {_show(value)}; a segment is [text, integer, integer]")
    if not identifier or start < 0 or length < 1:
        raise FieldFault("prompt", f"holds {_show(value)}; id is not empty, start >= 0 and length >= 1")
    return interner.segment(identifier, start, length)


def _token_ids(row: dict[str, Any], field: str) -> tuple[int, ...]:
    values = row[field]
    if type(values) is not list or not values:
        raise FieldFault(field, f"must be a non-empty list of token ids, not {_show(values)}")
    for value in values:
        if type(value) is not int or not 0 <= value <= MAX_TOKEN_ID:
            raise FieldFault(field, f"holds {_show(value)}; a token id is an integer from 0 to {MAX_TOKEN_ID}")
    return tuple(values)


def _output_token_ids(row: dict[str, Any], output_tokens: int) -> tuple[int, ...] | None:
    if row.get("output_token_ids") is None:
        return None
    if row.get("output") is not None:
        raise FieldFault("output", "and 'output_token_ids' exclude each other; keep one")
    values = _token_ids(row, "output_token_ids")
    if len(values) != output_tokens:
        raise FieldFault("output_token_ids", f"has {len(values)} tokens but output_tokens is {output_tokens}")
    return values


def _after(row: dict[str, Any]) -> tuple[int, ...]:
    if "after" not in row:
        return ()
    values = row["after"]
    if type(values) is not list or not values or any(type(value) is not int for value in values):
        raise FieldFault("after", f"must be a non-empty list of request ids, not {_show(values)}")
    if len(set(values)) < len(values):
        raise FieldFault("after", f"is {_show(values)}; name every request once")
    return tuple(values)


def _delay(row: dict[str, Any]) -> float:
    if "delay_s" not in row:
        return 0.0
    if "after" not in row:
        raise FieldFault("delay_s", "counts from the end of the requests in 'after', which is missing")
    return seconds(row, "delay_s")


def _optional_text(row: dict[str, Any], field: str, interner: Interner) -> str | None:
    return None if row.get(field) is None else interner.string(text(row, field))


def _present(row: dict[str, Any], field: str) -> Any:
    if field not in row:
        raise FieldFault(field, "is missing")
    return row[field]


def _show(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
