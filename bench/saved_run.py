"""Reading a run directory back."""

import gzip
import io
import json
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.documents import SCHEMA, SCHEMA_VERSION
from bench.output import META, ROWS, SUMMARY_JSON, TIMELINE
from bench.rows import FIELDS, TEXT_FIELDS
from libra.errors import LibraError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SavedRun:
    """A run as its directory holds it. ``rows`` has the columns of rows.csv: text is "" and a number NaN where the
    cell is empty."""

    path: Path
    meta: dict[str, Any]
    summary: dict[str, Any]
    rows: "pd.DataFrame"

    @property
    def policies(self) -> list[str]:
        return list(self.meta["policies"])

    @property
    def trace_sha256(self) -> dict[int, str]:
        """Seed -> digest of the trace it replayed."""
        return {int(seed): digest for seed, digest in self.meta["trace_sha256"].items()}

    @property
    def has_timeline(self) -> bool:
        return (self.path / TIMELINE).is_file()

    def timeline(self) -> "pd.DataFrame":
        """The memory timeline of all policies and seeds. Raises LibraError when the file is missing or damaged."""
        import pandas as pd

        try:
            return pd.read_parquet(self.path / TIMELINE)
        except (OSError, ValueError) as error:
            raise LibraError(f"{self.path / TIMELINE}: cannot be read ({error}); run the benchmark again") from error


def load_run(path: Path) -> SavedRun:
    """Reads a run that ``write_run`` wrote, partial or not.

    A run kept for good may hold its rows gzipped. Raises LibraError when ``path`` is no run, comes from a newer schema,
    lacks a file, or has rows that do not belong to its meta.json.
    """
    meta = _read_meta(path)
    rows = _rows_bytes(path)
    if sha256(rows).hexdigest() != meta["rows_sha256"]:
        raise LibraError(
            f"{path / ROWS}: was changed after the run (its SHA-256 is not the one in {META}); run it again"
        )
    return SavedRun(path, meta, _read_json(path / SUMMARY_JSON), _parse_rows(rows))


def _read_meta(path: Path) -> dict[str, Any]:
    if not (path / META).is_file():
        raise LibraError(f"{path}: is no run of libra ({META} is missing); name a directory that `libra bench` wrote")
    meta = _read_json(path / META)
    if meta.get("schema") != SCHEMA:
        raise LibraError(f"{path / META}: schema is {meta.get('schema')!r}, not {SCHEMA!r}; name a run of libra")
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise LibraError(
            f"{path / META}: schema version {meta.get('schema_version')!r}, but this libra reads {SCHEMA_VERSION}; "
            "read it with the libra that wrote it, or run it again"
        )
    return meta


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LibraError(f"{path}: cannot be read as JSON ({error}); run the benchmark again") from error
    if not isinstance(document, dict):
        raise LibraError(f"{path}: holds {type(document).__name__}, not an object; run the benchmark again")
    return document


def _rows_bytes(path: Path) -> bytes:
    plain, packed = path / ROWS, path / f"{ROWS}.gz"
    if plain.is_file():
        return plain.read_bytes()
    if not packed.is_file():
        raise LibraError(f"{path}: {ROWS} is missing; run the benchmark again")
    try:
        return gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise LibraError(f"{packed}: cannot be unpacked ({error}); run the benchmark again") from error


def _parse_rows(rows: bytes) -> "pd.DataFrame":
    import pandas as pd

    # Only numbers may be missing: an adapter called "NA" or "null" keeps its name.
    empty_is_missing = {name: [""] for name in FIELDS if name not in TEXT_FIELDS}
    text = dict.fromkeys(TEXT_FIELDS, str)
    return pd.read_csv(io.BytesIO(rows), dtype=text, keep_default_na=False, na_values=empty_is_missing)
