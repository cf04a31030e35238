"""What converting text data sets costs: a million requests are to take 60 s and 2 GB at most, with their writing."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from workloads.formats import ReadOptions
from workloads.registry import FORMATS
from workloads.trace import write_trace

NUM_REQUESTS = 200_000
TURNS = 10


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Texts of 3 to 40 words."""
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, size)) for size in rng.integers(2, 10, 500)]
    return [" ".join(rng.choice(words, size)) for size in rng.integers(3, 40, 1000)]


def write_dialogs(folder: Path, sentences: list[str]) -> list[Path]:
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(NUM_REQUESTS // TURNS):
        said = [sentences[place] for place in rng.integers(0, len(sentences), 2 * TURNS).tolist()]
        speakers = ["USER", "SYSTEM"] * TURNS
        turns = [{"speaker": who, "utterance": text} for who, text in zip(speakers, said, strict=True)]
        rows.append({"services": [f"Service_{rng.integers(0, 40)}"], "turns": turns})
    path = folder / "dialogues_001.json"
    path.write_text(json.dumps(rows))
    return [path]


def write_pairs(folder: Path, sentences: list[str]) -> list[Path]:
    rng = np.random.default_rng(2)
    paths = [folder / "c.de-en.de", folder / "c.de-en.en"]
    for path in paths:
        places = rng.integers(0, len(sentences), NUM_REQUESTS // 2).tolist()
        path.write_text("".join(sentences[place] + "\n" for place in places))
    return paths


@pytest.mark.parametrize(("trace_format", "write"), [("sgd", write_dialogs), ("opus", write_pairs)])
def test_convert_texts(
    benchmark: BenchmarkFixture,
    tmp_path: Path,
    sentences: list[str],
    trace_format: str,
    write: Callable[[Path, list[str]], list[Path]],
) -> None:
    paths = write(tmp_path, sentences)

    def convert() -> int:
        trace = FORMATS[trace_format].read(paths, ReadOptions(request_rate=20.0))
        write_trace(tmp_path / "out.jsonl", trace)
        return len(trace.requests)

    assert benchmark.pedantic(convert, rounds=1, iterations=1) == NUM_REQUESTS
    benchmark.extra_info["requests"] = NUM_REQUESTS
    # Of the whole process, all benchmarks before this one included.
    benchmark.extra_info["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
