"""The service readers on the published traces, where they are at hand."""

import os
from collections import Counter
from pathlib import Path

import pytest

from workloads.columns import trace_columns
from workloads.formats import AdapterMapping, ReadOptions
from workloads.load import load_trace
from workloads.prefixes import infinite_cache_hits
from workloads.registry import FORMATS
from workloads.traps import repeated_session_warnings

FOLDER = Path(os.environ.get("LIBRA_TRACES", Path(__file__).parents[2] / ".." / "shared" / "traces"))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no published traces in LIBRA_TRACES ({FOLDER})")


def test_azure_llm() -> None:
    trace = load_trace(FOLDER / "azure-llm-2023" / "AzureLLMInferenceTrace_conv.before1845.csv")
    assert len(trace.requests) == 9754
    assert trace.header.counts == {}
    # A known trap of this data (docs/workloads.md).
    assert "context cap" in " ".join(trace.header.warnings)


def test_azure_functions() -> None:
    path = FOLDER / "azure-functions-2019" / "1350_inv.even.min0001-0720.csv"
    options = ReadOptions(AdapterMapping(20, other_keys="drop"), start_s=600, span_s=1200)
    trace = FORMATS["azure-functions"].read([path], options)
    assert len(trace.header.adapters) == 20
    assert trace.header.counts["skipped_of_other_keys"] > 0
    counts = Counter(request.adapter for request in trace.requests)
    assert [counts[name] for name in trace.header.adapters] == sorted(counts.values(), reverse=True)


@pytest.mark.parametrize(("folder", "clients"), [("reason/deepseek-r1", 27), ("language/m-small", 22)])
def test_servegen(folder: str, clients: int) -> None:
    start_s = 39600.0 if clients == 27 else 72000.0
    options = ReadOptions(start_s=start_s, span_s=3600.0, request_rate=1.0)
    trace = FORMATS["servegen"].read([FOLDER / "servegen" / "data" / folder], options)
    assert trace.request_rate == pytest.approx(1, rel=0.1)
    assert len(trace.header.adapters) <= clients
    assert trace.requests[-1].arrival_s < 3600


def test_kv_cache_tester() -> None:
    trace = FORMATS["kv-cache-tester"].read([FOLDER / "kv-cache-tester"], ReadOptions())
    assert len(trace.requests) == 2030
    assert trace.header.counts == {"skipped_without_prompt_or_answer": 1, "sessions_split_by_adapter": 1}
    assert len({request.session for request in trace.requests}) == 72
    # Turns of a session repeat nearly all of the one before.
    assert infinite_cache_hits(trace.requests, 64).rate > 0.9
    assert "1 of 71 sessions" in repeated_session_warnings(trace_columns(trace.requests, 64))[0]


def test_lmcache_agent() -> None:
    trace = FORMATS["lmcache-agent"].read([FOLDER / "lmcache-agent-trace" / "taubench"], ReadOptions())
    assert len(trace.requests) == 471
    assert trace.header.counts["answers_without_text_drawn"] == 283
    assert trace.header.duration_s < 200
