"""results/peers: rows, summary and origin of each comparison, and a README made of them."""

import csv
import gzip
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import typer

from bench.documents import to_json
from bench.machine import describe_machine, package_versions, source_revision
from bench.output import csv_text
from bench.peers.comparison import Comparison
from bench.peers.readme import readme_text
from libra.errors import LibraError

# What bench/peers/README.md calls the places that these options name.
_PLACES = {
    "--vllm": "VLLM/bin/vllm",
    "--python": "SGLANG/bin/python",
    "--sglang-python": "SGLANG/bin/python",
    "--model": "DIR",
}


@contextmanager
def peer_program() -> Iterator[None]:
    """Mistakes of the caller end a program with one line and exit code 2."""
    try:
        yield
    except LibraError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def conclude(comparisons: Sequence[Comparison], name: str, out: Path, versions: Mapping[str, str]) -> None:
    """Writes the files of comparison ``name`` and the README anew, and prints one JSON line for each setting.

    Raises LibraError when ``out`` cannot be written, and typer.Exit with 1 when a policy is off its original.
    """
    summaries = [comparison.summary() for comparison in comparisons]
    rows = csv_text([row for comparison in comparisons for row in comparison.rows()])
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.rows.csv.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))
        (out / f"{name}.csv").write_text(csv_text(summaries), encoding="utf-8")
        (out / f"{name}.json").write_text(to_json(_origin(versions), indent=1) + "\n", encoding="utf-8")
        (out / "README.md").write_text(readme_text(read_summaries(out)), encoding="utf-8")
    except OSError as error:
        raise LibraError(f"--out {out}: cannot be written ({error.strerror}); name another directory") from error
    for summary in summaries:
        typer.echo(to_json(summary))
    if not all(comparison.agrees for comparison in comparisons):
        raise typer.Exit(1)


def read_summaries(out: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of each summary in ``out``, by the comparison's name."""
    tables = {}
    for path in sorted(out.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as lines:
            tables[path.stem] = list(csv.DictReader(lines))
    return tables


def command_line() -> str:
    """The command that runs, with places by their names in bench/peers/README.md, and without ``--out``: the results
    are for the directory that the program writes to by itself."""
    program = sys.modules["__main__"].__spec__
    name = f"python -m {program.name}" if program is not None else Path(sys.argv[0]).name
    words = [word for argument in sys.argv[1:] for word in argument.split("=", 1)]
    pairs = zip(["", *words], words, strict=False)
    said = [_PLACES.get(before, word) for before, word in pairs if "--out" not in (before, word)]
    return f"{name} {shlex.join(said)}".strip()


def _origin(versions: Mapping[str, str]) -> dict[str, object]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "peer": dict(versions),
        "source": source_revision(),
        "versions": package_versions(),
        "machine": describe_machine(),
    }
