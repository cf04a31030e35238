"""Tiny committed conversions of service traces, for tests only. ``--update-golden`` writes them anew."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.workloads.services import SAMPLES, sample, sample_options
from workloads.load import load_trace
from workloads.registry import FORMATS
from workloads.trace import Trace, parse_trace, read_trace, trace_lines, trace_sha256, write_trace

FOLDER = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[2]


def converted(name: str) -> Trace:
    trace_format, path = sample(name)
    return FORMATS[trace_format].read([path], sample_options(name))


@pytest.mark.parametrize("name", SAMPLES)
def test_conversions_are_the_committed_ones(name: str, update_golden: bool) -> None:
    path = FOLDER / f"{name}.tests-only.jsonl"
    trace = converted(name)
    if update_golden:
        write_trace(path, trace)
    assert path.read_text().splitlines(keepends=True) == list(trace_lines(trace))
    assert read_trace(path) == trace


@pytest.mark.parametrize("name", SAMPLES)
def test_conversions_survive_writing_and_reading(name: str) -> None:
    trace = converted(name)
    assert list(trace_lines(parse_trace(trace_lines(trace), "memory"))) == list(trace_lines(trace))
    arrivals = [request.arrival_s for request in trace.requests]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] < trace.header.duration_s


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "servegen"])
def test_first_rows_are_recognised(name: str) -> None:
    trace_format, path = sample(name)
    assert load_trace(path).header.parameters["format"] == trace_format


def test_other_processes_make_the_same_bytes() -> None:
    script = (
        "from tests.workloads.services import SAMPLES\n"
        "from tests.workloads.test_service_golden import converted\n"
        "from workloads.trace import trace_sha256\n"
        "for name in SAMPLES:\n    print(trace_sha256(converted(name)))"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONHASHSEED": "7"})
    assert result.stdout.split() == [trace_sha256(converted(name)) for name in SAMPLES]
