"""The published traces, where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from workloads.demand import Demand
from workloads.load import load_trace
from workloads.prefixes import infinite_cache_hits
from workloads.registry import WORKLOADS
from workloads.trace import Trace, parse_trace, trace_lines

FOLDER = Path(os.environ.get("LIBRA_TRACES", Path(__file__).parents[2] / ".." / "shared" / "traces"))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no published traces in LIBRA_TRACES ({FOLDER})")


@pytest.fixture(scope="module")
def conversation() -> Trace:
    return load_trace(FOLDER / "mooncake" / "conversation_trace.first1770s.jsonl", num_loras=50)


def test_mooncake_conversation(conversation: Trace) -> None:
    assert len(conversation.requests) == 5606
    assert conversation.header.duration_s == pytest.approx(1770, abs=0.01)
    assert conversation.header.parameters["timestamp_lump_s"] == 3.0
    assert conversation.header.warnings == ()
    assert len({request.session for request in conversation.requests}) == 3627
    gaps = np.diff([request.arrival_s for request in conversation.requests])
    # 3.03 with the lumps left in.
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.1)


def test_adapters_per_session_keep_the_prefix_reuse(conversation: Trace) -> None:
    # The block hits of the trace itself are 34.0 % of blocks; drawing an adapter per request leaves 6 to 9 %.
    assert infinite_cache_hits(conversation.requests, 512).rate > 0.30


def test_mooncake_synthetic_has_no_lumps() -> None:
    trace = load_trace(FOLDER / "mooncake" / "synthetic_trace.jsonl")
    assert len(trace.requests) == 3993
    assert trace.header.provenance.arrival_source == "native"
    assert parse_trace(trace_lines(trace), "memory") == trace


def test_azure_functions() -> None:
    path = FOLDER / "azure-functions-2019" / "1350_inv.even.min0001-0720.csv"
    trace = WORKLOADS["agents"].generate(Demand(arrivals=f"azure-functions:{path}"))
    assert trace.request_rate == pytest.approx(5.0, rel=0.15)
    assert trace.header.warnings == ()
    assert len({request.adapter for request in trace.requests}) > 25
