"""The published text data sets, where they are at hand."""

import os
from pathlib import Path

import pytest

from workloads.formats import ReadOptions
from workloads.registry import FORMATS
from workloads.trace import parse_trace, trace_lines

FOLDER = Path(os.environ.get("LIBRA_TRACES", Path(__file__).parents[2] / ".." / "shared" / "traces"))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no published traces in LIBRA_TRACES ({FOLDER})")


@pytest.mark.parametrize(
    ("trace_format", "place", "requests", "adapters", "counts"),
    [
        ("taskmaster", "taskmaster-tm4", 3720, 32, {"skipped_unanswered_utterances": 38}),
        ("multidogo", "multidogo/airline", 11979, 1, {"skipped_empty_utterances": 16}),
        ("opus", "mgsm", 27500, 110, {"skipped_files_of_no_language": 2}),
    ],
)
def test_every_dialog_is_there(
    trace_format: str, place: str, requests: int, adapters: int, counts: dict[str, int]
) -> None:
    trace = FORMATS[trace_format].read([FOLDER / place], ReadOptions(seed=3))
    assert len(trace.requests) == requests
    assert len(trace.header.adapters) == adapters
    assert {reason: trace.header.counts[reason] for reason in counts} == counts
    assert trace.request_rate == pytest.approx(5.0)
    assert trace.header.warnings == ()
    if trace_format == "taskmaster":
        assert parse_trace(trace_lines(trace), "memory") == trace
