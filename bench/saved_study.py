"""Reading back the directory of a study: a sweep or a search for peak loads."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.output import META
from bench.study_output import STUDY_SCHEMA, STUDY_SCHEMA_VERSION
from libra.errors import LibraError

_TRUTHS = {"True": True, "False": False}


@dataclass(frozen=True)
class SavedStudy:
    """A study as its directory holds it."""

    path: Path
    meta: dict[str, Any]

    @property
    def kind(self) -> str:
        """sweep or peak."""
        return str(self.meta["study"])

    def table(self, name: str, text: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        """The rows of one of its CSV files: an empty cell is None, and what reads as a number or a truth is one, except
        in the columns named ``text``. Raises LibraError when the file is missing or damaged."""
        path = self.path / name
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return [_values(row, text) for row in csv.DictReader(file)]
        except (OSError, ValueError) as error:
            raise LibraError(f"{path}: cannot be read ({error}); run the study again") from error


def is_study(path: Path) -> bool:
    """Whether the directory's meta.json is that of a study, of whatever version."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(meta, dict) and meta.get("schema") == STUDY_SCHEMA


def load_study(path: Path) -> SavedStudy:
    """Reads what `libra sweep` or `libra peak` wrote. Raises LibraError when ``path`` is none or comes from a newer
    schema."""
    if not is_study(path):
        raise LibraError(f"{path}: is no study of libra; name a directory that `libra sweep` or `libra peak` wrote")
    meta = json.loads((path / META).read_text(encoding="utf-8"))
    if meta.get("schema_version") != STUDY_SCHEMA_VERSION:
        raise LibraError(
            f"{path / META}: schema version {meta.get('schema_version')!r}, but this libra reads "
            f"{STUDY_SCHEMA_VERSION}; read it with the libra that wrote it, or run it again"
        )
    return SavedStudy(path, meta)


def _values(row: dict[str, str], text: frozenset[str]) -> dict[str, Any]:
    return {name: cell if name in text else _value(cell) for name, cell in row.items()}


def _value(cell: str) -> str | float | bool | None:
    if not cell:
        return None
    if cell in _TRUTHS:
        return _TRUTHS[cell]
    try:
        return float(cell)
    except ValueError:
        return cell
