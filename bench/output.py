"""A run directory: written as a whole or not at all."""

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.documents import SCHEMA, RunInfo, adapter_rows, finite, meta_document, summary_document, summary_row, to_json
from bench.metrics import PolicySummary
from bench.rows import write_rows
from libra.engine.record import RunResult
from libra.errors import LibraError

ROWS, SUMMARY_CSV, ADAPTERS_CSV = "rows.csv", "summary.csv", "adapters.csv"
SUMMARY_JSON, TIMELINE, META = "summary.json", "timeline.parquet", "meta.json"
# meta.json comes last: while it is missing, the directory is not a run.
FILES = (ROWS, SUMMARY_CSV, ADAPTERS_CSV, SUMMARY_JSON, TIMELINE, META)

_STAGING_PREFIX = ".writing-"
_PROBE_BYTES = 1 << 16


def prepare_output(path: Path, schema: str = SCHEMA) -> None:
    """Checks before a long run that ``path`` can take its results; creates nothing.

    A directory that does not exist yet or is empty will do, and so will an earlier run of libra, or whatever else
    ``schema`` names: its files are replaced together, once the new results are complete. Anything else is refused with
    LibraError.
    """
    if path.is_dir():
        names = {entry.name for entry in path.iterdir() if not entry.name.startswith(_STAGING_PREFIX)}
        if names and not _is_run(path, schema):
            raise LibraError(
                f"--out {path}: holds files but no {schema.replace('-', ' ')}; name an empty or a new directory"
            )
        parent = path
    else:
        parent = next(ancestor for ancestor in (path, *path.absolute().parents) if ancestor.exists())
        if not parent.is_dir():
            raise LibraError(f"--out {path}: {parent} is a file; name a directory")
    try:
        with tempfile.TemporaryFile(dir=parent) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_run(
    path: Path,
    results: Sequence[RunResult],
    summaries: Sequence[PolicySummary],
    info: RunInfo,
    *,
    partial: bool = False,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes all files of a run beside their final places and then moves them there.

    An earlier run in ``path`` is replaced, files of other names stay. ``extra`` are further files, name -> text, that
    belong to this run. ``partial`` marks a run that was interrupted
    before all its policies and seeds were done; a result cut short marks it by itself. When anything fails, an earlier
    run is still whole and nothing of the new one is left. Raises LibraError when the files cannot be written.
    """
    created = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_STAGING_PREFIX, dir=path) as name:
            staging = Path(name)
            _write_files(staging, results, summaries, info, partial)
            for file_name, text in extra.items():
                (staging / file_name).write_text(text, encoding="utf-8")
            for file_name in (*extra, *FILES):
                (staging / file_name).replace(path / file_name)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if created and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    return sha256(path.read_bytes()).hexdigest()


def _write_files(
    staging: Path,
    results: Sequence[RunResult],
    summaries: Sequence[PolicySummary],
    info: RunInfo,
    partial: bool,
) -> None:
    write_rows(staging / ROWS, results)
    _write_csv(staging / SUMMARY_CSV, [summary_row(summary) for summary in summaries])
    _write_csv(staging / ADAPTERS_CSV, [row for summary in summaries for row in adapter_rows(summary)])
    _write_json(staging / SUMMARY_JSON, summary_document(summaries))
    _write_timeline(staging / TIMELINE, results)
    _write_json(staging / META, meta_document(results, info, partial, file_digest(staging / ROWS)))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(to_json(value, indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(csv_text(rows), encoding="utf-8", newline="")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the union of their keys as columns; what JSON could not say is an empty cell."""
    text = io.StringIO()
    fields = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(finite(row) for row in rows)
    return text.getvalue()


def _write_timeline(path: Path, results: Sequence[RunResult]) -> None:
    """All timelines in one table, with the columns policy and seed before theirs."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    tables = [
        pa.table(
            {
                "policy": pa.array([result.policy] * _num_samples(result), pa.string()),
                "seed": pa.array([result.seed] * _num_samples(result), pa.int64()),
                # from_pandas turns NaN into null.
                **{name: pa.array(values, pa.float64(), from_pandas=True) for name, values in result.timeline.items()},
            }
        )
        for result in results
    ]
    table = pa.concat_tables(tables, promote_options="default") if tables else pa.table({"policy": [], "seed": []})
    parquet.write_table(table, path)


def _num_samples(result: RunResult) -> int:
    return len(next(iter(result.timeline.values()), ()))


def _is_run(path: Path, schema: str) -> bool:
    """Whether the directory's meta.json is one of ours, of whatever version."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(meta, dict) and meta.get("schema") == schema


def _cannot_write(path: Path, error: OSError) -> LibraError:
    reason = error.strerror or str(error)
    return LibraError(f"--out {path}: cannot write results there ({reason}); free space or name another directory")
