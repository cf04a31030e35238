"""Text files read by line and written whole or not at all; every fault is one line for the user."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from libra.errors import LibraError


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, endings included. Raises LibraError where it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise LibraError(f"{path} is not UTF-8 text ({error.reason}); is it compressed?") from None
    except OSError as error:
        raise LibraError(f"cannot read {path}: {error.strerror}") from None


def replace_file(path: Path, lines: Iterable[str]) -> None:
    """Writes ``lines`` to a temporary name beside ``path``, then renames: an interrupted write leaves no half file.

    Links are followed, and devices and pipes (/dev/stdout) are written to as they are: what stands at ``path`` stays
    what it is. Raises LibraError where the place cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8", newline="") as file:
                file.writelines(lines)
        else:
            _replace(path.resolve(), lines)
    except OSError as error:
        raise LibraError(f"cannot write {path}: {error.strerror}; choose another place") from None


def _replace(path: Path, lines: Iterable[str]) -> None:
    temporary = path.with_name(f".writing-{path.name}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
