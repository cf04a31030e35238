"""Tiny committed conversions of text data sets, for tests only. ``--update-golden`` writes them anew."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.workloads.texts import SLOW, sample_paths
from workloads.registry import FORMATS
from workloads.trace import read_trace, trace_lines, trace_sha256, write_trace

FOLDER = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[2]
TEXT_FORMATS = ("taskmaster", "multidogo", "sgd", "lmsys", "opus")


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_conversions_are_the_committed_ones(name: str, tmp_path: Path, update_golden: bool) -> None:
    path = FOLDER / f"{name}.tests-only.jsonl"
    trace = FORMATS[name].read(sample_paths(name, tmp_path), SLOW)
    if update_golden:
        write_trace(path, trace)
    assert path.read_text().splitlines(keepends=True) == list(trace_lines(trace))
    assert read_trace(path) == trace


def test_other_processes_make_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from tests.workloads.texts import SLOW, sample_paths\n"
        "from workloads.registry import FORMATS; from workloads.trace import trace_sha256\n"
        "for name in sys.argv[2:]:\n"
        "    print(trace_sha256(FORMATS[name].read(sample_paths(name, pathlib.Path(sys.argv[1])), SLOW)))"
    )
    command = [sys.executable, "-c", script, str(tmp_path), *TEXT_FORMATS]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONHASHSEED": "7"})
    assert result.stdout.split() == [
        trace_sha256(FORMATS[name].read(sample_paths(name, tmp_path), SLOW)) for name in TEXT_FORMATS
    ]
