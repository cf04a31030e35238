"""The directory of a study (peak, sweep): CSV tables and a meta.json, each file whole or not there."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.documents import to_json
from bench.machine import describe_machine, package_versions, source_revision
from bench.output import META, csv_text
from libra.errors import LibraError
from workloads.files import replace_file

STUDY_SCHEMA = "libra-study"
STUDY_SCHEMA_VERSION = 1

Row = Mapping[str, Any]


def replace_text(path: Path, text: str) -> None:
    """Writes ``path``, and the directories above it, so that it is whole whenever it exists. Raises LibraError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LibraError(f"cannot write {path}: {error.strerror}; choose another place") from error
    replace_file(path, [text])


def write_study(path: Path, tables: Mapping[str, Sequence[Row]], meta: Mapping[str, Any]) -> None:
    """Writes ``tables`` (file name -> rows), then meta.json. Raises LibraError."""
    for name, rows in tables.items():
        replace_text(path / name, csv_text(rows))
    replace_text(path / META, to_json(meta, indent=1) + "\n")


def study_meta(kind: str, partial: bool, details: Mapping[str, Any]) -> dict[str, Any]:
    """What meta.json says: how the study was made and on what, and ``details`` of its kind."""
    return {
        "schema": STUDY_SCHEMA,
        "schema_version": STUDY_SCHEMA_VERSION,
        "study": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["libra", *sys.argv[1:]]),
        "partial": partial,
        **details,
        "source": source_revision(),
        "versions": package_versions(),
        "machine": describe_machine(),
    }
