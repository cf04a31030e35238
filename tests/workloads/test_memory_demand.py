"""Tokens held over time and the memory demand in flight, by hand and against a plain loop over seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.request import Request, Segment
from libra.spec import MODELS, AdapterSpec
from tests.workloads.builders import row, write_rows
from workloads.columns import trace_columns
from workloads.demand import Demand
from workloads.holding import held_intervals
from workloads.memory_demand import Changes, memory_demand
from workloads.prefixes import prefix_tree
from workloads.registry import WORKLOADS
from workloads.service import ServiceTime
from workloads.trace import read_trace

MODEL = MODELS["llama3-8b"]
TOKEN = MODEL.kv_bytes_per_token
SERVICE = ServiceTime(first_token_s=1.0, per_token_s=0.25)  # two seconds for an answer of four tokens
ADAPTERS = {"a": AdapterSpec("a", 32), "b": AdapterSpec("b", 64)}


def demand_of(tmp_path: Path, duration_s: float, *rows: dict[str, Any]) -> Any:
    trace = read_trace(write_rows(tmp_path / "t.jsonl", *rows))
    tree = prefix_tree(trace_columns(trace.requests, service=SERVICE))
    return memory_demand(tree, ADAPTERS, MODEL, 32, duration_s)


def test_one_request(tmp_path: Path) -> None:
    found = demand_of(tmp_path, 6.0, row(0, arrival_s=1.0, output_tokens=8))
    # In flight over [1, 4): 72 prompt tokens, and four answer tokens a second from 2 on.
    blocks = ADAPTERS["a"].num_blocks(MODEL)
    assert (found.adapter_bytes / MODEL.block_bytes(32)).tolist() == [0, blocks, blocks, blocks, 0, 0]
    assert (found.kv_bytes / TOKEN).tolist() == [0, 72, 72, 76, 0, 0]
    assert found.adapters_in_flight.tolist() == [0, 1, 1, 1, 0, 0]
    # From zero, none, a little, and to zero.
    rise = 4 / (blocks * 32 + 72)
    assert found.per_adapter.count == 3
    assert found.per_adapter.mean == pytest.approx((0 + rise + 1) / 3)
    assert found.per_adapter.large_share == pytest.approx(1 / 3)
    assert found.per_adapter.from_zero == 1
    assert found.together == found.per_adapter


def test_what_two_requests_share_counts_once_and_adapters_are_apart(tmp_path: Path) -> None:
    found = demand_of(
        tmp_path,
        4.0,
        row(0, arrival_s=0.0, session="x", output_tokens=8),
        row(1, arrival_s=0.5, session="y", output_tokens=8),
        row(2, arrival_s=0.5, session="z", adapter="b", prompt=[["b.sys", 0, 64], ["z.t0", 0, 8]], output_tokens=8),
    )
    # At 1 s adapter a holds 64 + 8 + 8 tokens and b holds 72; at 2 s a's answers have 4 + 2 and b's 2.
    assert (found.kv_bytes / TOKEN).tolist() == pytest.approx([72, 80 + 72, 80 + 6 + 72 + 2, 72 + 6 + 72 + 6])
    assert found.adapters_in_flight.tolist() == [1, 2, 2, 2]


def test_a_trace_without_a_second_second_has_no_changes(tmp_path: Path) -> None:
    assert demand_of(tmp_path, 1.0, row(0, arrival_s=0.0)).per_adapter == Changes(0, None, None, 0)


def test_many_adapters_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = WORKLOADS["chatbot"].generate(Demand(num_adapters=7, duration_s=60))
    adapters = {name: AdapterSpec(name, 32) for name in trace.header.adapters}
    tree = prefix_tree(trace_columns(trace.requests))
    whole = memory_demand(tree, adapters, MODEL, 32, 60.0)
    monkeypatch.setattr("workloads.memory_demand.MAX_CELLS", 120)
    parts = memory_demand(tree, adapters, MODEL, 32, 60.0)
    assert np.allclose(parts.kv_bytes, whole.kv_bytes)
    assert parts.per_adapter.count == whole.per_adapter.count
    assert parts.per_adapter.mean == pytest.approx(whole.per_adapter.mean)


@st.composite
def request_lists(draw: st.DrawFn) -> list[Request]:
    """Short prompts over few texts, so that prefixes are shared, at times on a grid, so that intervals touch."""
    requests = []
    for number, arrival in enumerate(sorted(draw(st.lists(st.integers(0, 12), min_size=1, max_size=12)))):
        texts = draw(st.lists(st.sampled_from("xyz"), min_size=1, max_size=3))
        prompt = tuple(Segment(text, 0, 4 + "xyz".index(text)) for text in texts)
        tokens, adapter = draw(st.integers(1, 9)), draw(st.sampled_from("ab"))
        requests.append(Request(number, arrival / 2, adapter, tokens, prompt, session=f"s{number % 3}{adapter}"))
    return requests


@settings(max_examples=60)
@given(request_lists())
def test_held_intervals_are_the_union_over_requests(requests: list[Request]) -> None:
    columns = trace_columns(requests, service=SERVICE)
    held = held_intervals(prefix_tree(columns), columns.end_s)
    for time_s in np.arange(0.25, 9, 0.5):
        prefixes = set()
        for request in requests:
            if request.arrival_s <= time_s < request.arrival_s + SERVICE.of(request.output_tokens):
                names = [(part.id, part.length) for part in request.prompt] + [(request.id, request.output_tokens)]
                prefixes |= {(request.adapter, *names[:depth]) for depth in range(1, len(names) + 1)}
        inside = (held.from_s <= time_s) & (time_s < held.until_s)
        assert int(held.tokens[inside].sum()) == sum(prefix[-1][1] for prefix in prefixes)
