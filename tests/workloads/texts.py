"""Text data sets for tests: the tiny made-up samples in data/texts, and dialogs built on the spot."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workloads.agents import AGENTS
from workloads.dialog_reader import DialogReader
from workloads.dialogs import Dialog
from workloads.formats import ReadOptions

SAMPLES = Path(__file__).parent / "data" / "texts"
SLOW = ReadOptions(request_rate=0.001)  # slow enough for every session of a sample to fit into the window


def sample_paths(trace_format: str, folder: Path) -> list[Path]:
    """The sample of a format; parquet is made of its JSON lines in ``folder``."""
    if trace_format == "lmsys":
        return [write_parquet(folder / "lmsys.parquet", *_lines(SAMPLES / "lmsys.jsonl"))]
    return [next(iter(sorted(SAMPLES.glob(f"{trace_format}*"))))]


def write_parquet(path: Path, *rows: dict[str, object]) -> Path:
    """A parquet file of these rows."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def reader_of(dialogs: Sequence[Dialog]) -> DialogReader:
    """A reader that finds these dialogs in any file."""

    def read(paths: Sequence[Path], options: ReadOptions, skipped: Counter[str]) -> Iterator[Dialog]:
        return iter(dialogs)

    return DialogReader("tests only", "dialogs of a test", "keys", AGENTS, read)


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
