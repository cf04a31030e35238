"""The fields of a request body, checked as they are read."""

import json
import math
from typing import Any

from libra.server.errors import ApiError, bad_field


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``. Raises ApiError."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}", "invalid_json") from None
    if not isinstance(document, dict):
        raise ApiError(400, f"The body is {type(document).__name__}, not a JSON object.", "invalid_json")
    return document


class Fields:
    """Typed access to one object. A field that is null counts as absent; every reader raises ApiError for a value of
    another type or out of range. ``unread`` are the fields nobody asked for."""

    def __init__(self, document: dict[str, Any], path: str = "") -> None:
        self._document = document
        self._path = path
        self._read: set[str] = set()

    def raw(self, name: str) -> Any:
        self._read.add(name)
        return self._document.get(name)

    def ignore(self, *names: str) -> None:
        """Marks fields as known though nothing comes of them here."""
        self._read.update(names)

    def text(self, name: str, shortest: int = 0, longest: int | None = None) -> str | None:
        value = self.raw(name)
        if value is None:
            return None
        text = self.as_text(name, value)
        if len(text) < shortest or (longest is not None and len(text) > longest):
            limits = f"at least {shortest}" if longest is None else f"{shortest} to {longest}"
            raise bad_field(self._path + name, f"must have {limits} characters")
        return text

    def needed_text(self, name: str, longest: int | None = None) -> str:
        text = self.text(name, 1, longest)
        if text is None:
            raise bad_field(self._path + name, "must be given")
        return text

    def as_text(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise bad_field(self._path + name, f"must be a string, got {_kind(value)}")
        if not is_encodable(value):
            raise bad_field(self._path + name, "holds half of a surrogate pair")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise bad_field(self._path + name, f"must be true or false, got {_kind(value)}")
        return value

    def whole(self, name: str, low: int, high: int) -> int | None:
        value = self.raw(name)
        return None if value is None else self.as_whole(name, value, low, high)

    def as_whole(self, name: str, value: Any, low: int, high: int) -> int:
        # Some clients write whole numbers as 16.0.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise bad_field(self._path + name, f"must be a whole number, got {_kind(value)}")
        if not low <= value <= high:
            raise bad_field(self._path + name, f"must lie between {low} and {high}, got {_short(value)}")
        return value

    def number(self, name: str, default: float, low: float, high: float, above: bool = False) -> float:
        """``above``: ``low`` itself is not allowed."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise bad_field(self._path + name, f"must be a number, got {_kind(value)}")
        if isinstance(value, float) and math.isnan(value):
            raise bad_field(self._path + name, "must be a number, got NaN")
        if above and value == low:
            raise bad_field(self._path + name, f"must be above {low:g}")
        if not low <= value <= high:
            raise bad_field(self._path + name, f"must lie between {low:g} and {high:g}, got {_short(value)}")
        return float(value)

    def child(self, name: str) -> "Fields":
        """An object inside this one; empty when it is absent."""
        value = self.raw(name)
        if value is not None and not isinstance(value, dict):
            raise bad_field(self._path + name, f"must be an object, got {_kind(value)}")
        return Fields(value or {}, f"{self._path}{name}.")

    def unread(self) -> list[str]:
        return [self._path + name for name, value in self._document.items() if name not in self._read]


def is_encodable(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: JSON can spell halves of surrogate pairs, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_KINDS = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "null")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) or abs(value) < 1 << 63 else "a number that is far outside"
