"""Faults as clients of OpenAI's API expect them: a status and one object."""

from bisect import bisect
from collections.abc import Iterable, Mapping
from typing import Any

from libra.errors import nearest_name

# As of a path's component; longer ones are not even compared.
_LONGEST_NAME = 255
# On either side of a name's place in the alphabet, so many are compared with it closely: that takes time for each.
_NEIGHBOURS = 8
_TYPES = {401: "authentication_error", 408: "timeout_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer with an error status. ``code`` is a word for programs, ``param`` the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """The body."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_field(param: str, message: str) -> ApiError:
    """A field of the body that cannot be what it is."""
    return ApiError(400, f"{param}: {message}", "invalid_value", param)


def unknown_model(name: str, known: Iterable[str]) -> ApiError:
    """A model nobody serves, with the nearest that somebody does."""
    if len(name) > _LONGEST_NAME:
        return ApiError(404, f"No model has a name of {len(name)} characters.", "model_not_found", "model")
    close = nearest_name(name, _neighbours(name, list(known)))
    hint = "" if close is None else f" Did you mean {close!r}?"
    return ApiError(404, f"The model {name!r} does not exist.{hint}", "model_not_found", "model")


def _neighbours(name: str, known: list[str]) -> set[str]:
    """Those of ``known`` that begin or end as ``name`` does."""
    backwards = sorted(other[::-1] for other in known)
    return {*_around(name, sorted(known)), *(other[::-1] for other in _around(name[::-1], backwards))}


def _around(name: str, ordered: list[str]) -> list[str]:
    place = bisect(ordered, name)
    return ordered[max(place - _NEIGHBOURS, 0) : place + _NEIGHBOURS]


def timed_out(limit_s: float) -> ApiError:
    return ApiError(408, f"The request took longer than {limit_s:g} s.", "timeout")


def too_long(message: str) -> ApiError:
    return ApiError(413, message, "context_length_exceeded", "prompt")
