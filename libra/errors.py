"""Faults a user can mend, as one line: what is wrong, where, and how to fix it."""

import difflib
from collections.abc import Iterable


class LibraError(Exception):
    """A fault in what the user asked for or handed in. The CLI prints the message alone and exits with 2."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> LibraError:
    """An error for a name that is not one of ``choices``; it names the nearest valid one."""
    valid = sorted(choices)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "nothing is near it."
    return LibraError(f"unknown {kind} {name!r}: {hint} Valid: {', '.join(valid)}")
