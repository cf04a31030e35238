"""Faults a user can mend, as one line: what is wrong, where, and how to fix it."""

import difflib
from collections.abc import Iterable


class LibraError(Exception):
    """A fault in what the user asked for or handed in. The CLI prints the message alone and exits with 2."""


def nearest_name(name: str, choices: Iterable[str]) -> str | None:
    """The one of ``choices`` that was probably meant."""
    close = difflib.get_close_matches(name, sorted(choices), n=1, cutoff=0.5)
    return close[0] if close else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> LibraError:
    """An error for a name that is not one of ``choices``; it names the nearest valid one."""
    valid = sorted(choices)
    close = nearest_name(name, valid)
    hint = "nothing is near it." if close is None else f"did you mean {close!r}?"
    return LibraError(f"unknown {kind} {name!r}: {hint} Valid: {', '.join(valid)}")
