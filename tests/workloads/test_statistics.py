"""Statistics of a trace against numbers worked by hand."""

from pathlib import Path

import pytest

from tests.workloads.builders import HEADER, row, trace_statistics, write_rows
from workloads.demand import Demand
from workloads.registry import WORKLOADS
from workloads.trace import read_trace


def test_hand_made_trace(tmp_path: Path) -> None:
    sessions = ["x", "x", "x", "y", None, None]
    adapters = ["a", "a", "a", "b", "b", "c"]
    rows = [
        row(number, session=session, adapter=adapter, arrival_s=arrival_s, output_tokens=number + 1)
        for number, (session, adapter, arrival_s) in enumerate(
            zip(sessions, adapters, [0.0, 1.0, 1.5, 1.6, 4.0, 5.0], strict=True)
        )
    ]
    found = trace_statistics(read_trace(write_rows(tmp_path / "t.jsonl", *rows, header={**HEADER, "duration_s": 6})))
    assert (found.num_requests, found.num_sessions, found.num_adapters) == (6, 4, 3)
    assert found.request_rate == 1.0
    # Counts of the six seconds are 1, 3, 0, 0, 1, 1: variance 1, mean 1. Longer windows do not fit five times.
    assert found.dispersion == (pytest.approx(1.0), None, None)
    assert found.top_shares == (0.5, 1.0, 1.0)
    assert found.turns.mean == 1.5
    assert found.turns.maximum == 3
    assert found.output_tokens.mean == 3.5
    assert found.output_tokens.percentiles[2] == 3.5


def test_zipf_and_poisson_are_recognised() -> None:
    trace = WORKLOADS["translation"].generate(Demand(num_adapters=20, request_rate=50, popularity="zipf:1.0"))
    found = trace_statistics(trace)
    assert found.popularity_slope == pytest.approx(-1.0, abs=0.05)
    assert found.gap_cv == pytest.approx(1.0, abs=0.02)
    assert found.dispersion[0] == pytest.approx(1.0, abs=0.1)


def test_one_request(tmp_path: Path) -> None:
    found = trace_statistics(read_trace(write_rows(tmp_path / "t.jsonl", row(0))))
    assert found.gap_cv is None
    assert found.popularity_slope is None
