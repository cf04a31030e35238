"""Rows of CSV and JSON files for readers of published traces: faults name file, row and column."""

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from libra.errors import LibraError
from workloads.rows import MAX_SECONDS, FieldFault, integer
from workloads.sources import Source

T = TypeVar("T")
JsonObject = dict[str, Any]
MAX_TOKENS = 10_000_000  # of one prompt or answer; a larger figure is no length
MAX_DIGITS = 15
KIND_NAMES: dict[type, str] = {str: "string", list: "list", dict: "JSON object"}


def json_rows(source: Source, required: frozenset[str], parse: Callable[[JsonObject], T]) -> Iterator[T]:
    """``parse`` of each line's JSON object, which has the ``required`` keys. Raises LibraError for faults of either."""
    return _parsed(source, source.lines(), lambda line: parse(json_object(line, required)), first=1)


def csv_rows(
    source: Source,
    columns: Sequence[str],
    parse: Callable[[Sequence[str]], T],
    delimiter: str = ",",
    optional: Sequence[str] = (),
) -> Iterator[T]:
    """``parse`` of each row's fields of ``columns``, in that order, below a header that has them all.

    Fields of ``optional`` columns follow; they are empty where the header lacks the column.

    Raises LibraError for a header without them, rows of another width, a last row without a line end, and faults of
    ``parse``.
    """
    reader = raw_csv(source, delimiter)
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        raise LibraError(
            f"{source.name}, row 1: has no column {missing[0]!r}; the columns must be {', '.join(columns)}"
        )
    beyond = len(header)  # of a row with one empty field more
    places = [header.index(name) if name in header else beyond for name in (*columns, *optional)]

    def chosen(row: list[str]) -> T:
        if len(row) != len(header):
            raise FieldFault("row", f"has {len(row)} columns where the header has {len(header)}")
        fields = [*row, ""]
        return parse([fields[place] for place in places])

    return _parsed(source, reader, chosen, first=2)


def json_document(source: Source) -> Any:
    """The whole file as one JSON value. Raises LibraError."""
    try:
        return json_value(source.text())
    except FieldFault as fault:
        raise LibraError(f"{source.name}: {fault}") from None


def document_rows(source: Source, parse: Callable[[JsonObject], T]) -> Iterator[T]:
    """``parse`` of each JSON object in a file that is one list of them, or one alone. Raises LibraError.

    A row is the place in the list, from 1.
    """
    value = json_document(source)
    return _parsed(source, value if type(value) is list else [value], lambda row: parse(_object(row)), first=1)


def member(row: JsonObject, field: str, kind: type[T]) -> T:
    """The value of a key of a JSON object. Raises FieldFault where it is missing or not a ``kind``."""
    if field not in row:
        raise FieldFault(field, "is missing")
    value = row[field]
    if type(value) is not kind:
        raise FieldFault(field, f"must be a {KIND_NAMES[kind]}, not {str(value)[:40]!r}")
    return value


def json_object(text: str, required: frozenset[str] = frozenset()) -> JsonObject:
    """A JSON object that has the ``required`` keys; raises FieldFault for anything else."""
    value = json_value(text)
    if type(value) is not dict or not required <= value.keys():
        raise FieldFault("row", f"must be a JSON object with {', '.join(sorted(required))}")
    return value


def json_value(text: str) -> Any:
    """Raises FieldFault for text that is not one JSON value."""
    try:
        return json.loads(text)
    except ValueError as error:
        cut = "" if text.endswith("\n") else "; the file is cut short"
        raise FieldFault("row", f"is not JSON ({error}){cut}") from None
    except RecursionError:
        raise FieldFault("row", "is not JSON of a sane depth") from None


def token_count(row: JsonObject, field: str) -> int:
    """A length in tokens, from 0 to MAX_TOKENS. Raises FieldFault."""
    return _limited(field, integer(row, field, 0))


def whole_number(column: str, text: str) -> int:
    """A CSV field that is a whole number of 0 or more. Raises FieldFault."""
    digits = text.strip()
    if not (digits.isdecimal() and digits.isascii() and len(digits) <= MAX_DIGITS):
        raise FieldFault(column, f"is {text[:40]!r}; it must be a whole number of 0 or more")
    return int(digits)


def csv_tokens(column: str, text: str) -> int:
    """A CSV field that is a length in tokens. Raises FieldFault."""
    return _limited(column, whole_number(column, text))


def finite_number(column: str, text: str, minimum: float = 0.0) -> float:
    """A CSV field that is a finite number of at least ``minimum`` and of less than MAX_SECONDS. Raises FieldFault."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not minimum <= value <= MAX_SECONDS:  # false for NaN too
        raise FieldFault(column, f"is {text[:40]!r}; it must be a finite number of {minimum:g} or more")
    return value


class Ordered:
    """Refuses values of one column that fall: the rows of a trace come in order of time."""

    def __init__(self, column: str) -> None:
        self._column, self._last = column, -math.inf

    def check(self, value: float) -> None:
        """Raises FieldFault where ``value`` is below the last one. Remembers ``value``."""
        if value < self._last:
            raise FieldFault(self._column, f"is {value:.15g} after {self._last:.15g}; sort the rows")
        self._last = value


def _object(value: object) -> JsonObject:
    if type(value) is not dict:
        raise FieldFault("row", f"must be a JSON object, not {str(value)[:40]!r}")
    return value


def _limited(field: str, count: int) -> int:
    if count > MAX_TOKENS:
        raise FieldFault(field, f"is {count}; a length is at most {MAX_TOKENS:,} tokens")
    return count


def _parsed(source: Source, rows: Iterable[Any], parse: Callable[[Any], T], first: int) -> Iterator[T]:
    for number, row in enumerate(rows, start=first):
        try:
            yield parse(row)
        except FieldFault as fault:
            raise LibraError(f"{source.name}, row {number}: {fault}") from None


def whole_lines(source: Source) -> Iterator[str]:
    """The lines; a number on a last line without an end may have lost digits, so that is refused."""
    for number, line in enumerate(source.lines(), start=1):
        if not line.endswith(("\n", "\r")):
            raise LibraError(
                f"{source.name}, row {number}: the file ends inside this row: it is cut short; copy it again, "
                "or add a line end if it is whole"
            )
        yield line


def raw_csv(source: Source, delimiter: str = ",") -> Iterator[list[str]]:
    """The rows as they are, a header included; an empty line is a row without columns. Raises LibraError for what is
    not CSV and for a last row without a line end."""
    reader = csv.reader(whole_lines(source), delimiter=delimiter, strict=True)
    for number in itertools.count(1):
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise LibraError(f"{source.name}, row {number}: is not CSV ({error})") from None
        if row is None:
            return
        yield row
