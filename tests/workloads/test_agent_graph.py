"""The agent-graph workload: tasks are trees of calls that wait for each other, with prompts that hold what they got."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.errors import LibraError
from libra.request import Request, Segment
from tests.workloads.builders import write_function_counts
from workloads.agent_calls import TASK_SHAPE, TaskBuilder, TaskCall
from workloads.agent_graph import AGENT_GRAPH, AgentGraph
from workloads.demand import Demand
from workloads.graphs.built_in import built_in_model
from workloads.graphs.calls import Callee, CallGraph, Vertex, call_graph
from workloads.graphs.model import learn_model
from workloads.graphs.model_file import write_model
from workloads.registry import find_workload
from workloads.trace import Trace, parse_trace, trace_lines

A, B, C, D = (Vertex(name, "do") for name in "ABCD")
AGENTS = {"A": 0, "B": 1, "C": 2, "D": 3}


def tasks_of(trace: Trace) -> list[list[Request]]:
    grouped: defaultdict[str | None, list[Request]] = defaultdict(list)
    for request in trace.requests:
        grouped[request.task].append(request)
    return list(grouped.values())


def calls_of(graph: CallGraph, **changes: int) -> tuple[list[TaskCall], int]:
    """The calls of one task from time 0, and how many were cut."""
    task = TaskBuilder(replace(TASK_SHAPE, **changes), graph, AGENTS, "t", 0.0, np.random.default_rng(0))  # type: ignore[arg-type]
    return task.calls, task.num_cut


@given(
    seed=st.integers(0, 2**32),
    num_adapters=st.integers(1, 60),
    rate=st.floats(1.0, 6.0),
    arrivals=st.sampled_from(["poisson", "gamma:2", "onoff:5,5", "drift:20"]),
)
@settings(max_examples=12)
def test_tasks_are_trees_whose_calls_hold_the_answers_they_wait_for(
    seed: int, num_adapters: int, rate: float, arrivals: str
) -> None:
    trace = AGENT_GRAPH.generate(Demand(num_adapters, rate, 60.0, seed, arrivals=arrivals))
    assert parse_trace(trace_lines(trace), "memory") == trace
    by_id = {request.id: request for request in trace.requests}
    assert len(tasks_of(trace)) == trace.header.parameters["num_tasks"]
    for first, *others in tasks_of(trace):
        assert first.after == ()
        assert first.arrival_s < 60
        for request in others:
            (waits_for,) = request.after
            earlier = by_id[waits_for]
            assert earlier.task == request.task
            assert request.arrival_s == pytest.approx(earlier.arrival_s + request.delay_s, abs=2e-6)
            assert Segment(earlier.output or "", 0, earlier.output_tokens) in request.prompt
            assert request.num_prompt_tokens + request.output_tokens <= TASK_SHAPE.max_context_tokens


def test_calls_follow_the_graph() -> None:
    """A calls B twice and looks up a store; B was called twice, so its three calls of C are dealt out 2 and 1."""
    store = Callee(Vertex("cache"), "mc")
    graph = call_graph(A, {A: {Callee(B, "rpc"): 2, store: 10}, B: {Callee(C, "rpc"): 3}})
    calls, cut = calls_of(graph)
    assert cut == 0
    assert [(call.vertex, call.after, call.session) for call in calls] == [
        (A, None, "t.0"),
        (B, 0, "t.1"),
        (B, 1, "t.1"),
        (C, 1, "t.3"),
        (C, 3, "t.3"),
        (C, 2, "t.5"),
    ]
    plain, _ = calls_of(call_graph(A, {A: {Callee(B, "rpc"): 2}, B: {Callee(C, "rpc"): 3}}))
    waits = [round(call.delay_s - other.delay_s, 6) for call, other in zip(calls, plain, strict=True)]
    assert waits == [0, 10 * TASK_SHAPE.store_s, 0, 0, 0, 0], "a store delays the first call of each loop alone"


def test_prompts_are_tools_interface_the_callers_answer_and_what_was_said_since() -> None:
    calls, _ = calls_of(call_graph(A, {A: {Callee(B, "rpc"): 2}}))
    root, first, second = calls
    assert [part.id for part in root.prompt] == ["agent0.tools", "agent0.do", "t.in"]
    assert [part.id for part in first.prompt] == ["agent1.tools", "agent1.do", "t.o0", "t.h1"]
    assert second.prompt[:5] == (*first.prompt, first.answer)
    assert [part.id for part in second.prompt[5:]] == ["t.h2"]
    plain, _ = calls_of(call_graph(Vertex("A"), {}))
    assert [part.id for part in plain[0].prompt] == ["agent0.tools", "t.in"]


def test_a_loop_ends_before_the_call_that_would_pass_the_context_and_its_calls_are_dealt_out_again() -> None:
    graph = call_graph(A, {A: {Callee(B, "rpc"): 50}, B: {Callee(C, "rpc"): 4}})
    calls, cut = calls_of(graph, max_context_tokens=3000)
    of_b = [place for place, call in enumerate(calls) if call.vertex == B]
    assert cut == 50 - len(of_b) > 0
    assert max(sum(part.length for part in call.prompt) + call.answer.length for call in calls) <= 3000
    assert [call.after for call in calls if call.vertex == C] == of_b[:4]


def test_what_only_a_store_calls_is_no_request() -> None:
    store = Vertex("db")
    calls, _ = calls_of(call_graph(A, {A: {Callee(store, "db"): 1}, store: {Callee(D, "rpc"): 3}}))
    assert [call.vertex for call in calls] == [A]


@pytest.mark.parametrize("num_adapters", [1, 30])
def test_the_rate_of_requests_holds(num_adapters: int) -> None:
    rates = [AGENT_GRAPH.generate(Demand(num_adapters, 10.0, 400.0, seed)).request_rate for seed in range(5)]
    assert np.mean(rates) == pytest.approx(10.0, rel=0.06)


def test_popularity_and_functions_say_where_tasks_enter(tmp_path: Path) -> None:
    def roots(**changes: str) -> Counter[str | None]:
        trace = AGENT_GRAPH.generate(replace(Demand(num_adapters=20, duration_s=300), **changes))  # type: ignore[arg-type]
        return Counter(request.adapter for request in trace.requests if not request.after)

    assert len(roots(popularity="identical")) == 1
    even = roots(popularity="distinct")
    assert max(even.values()) - min(even.values()) <= 1
    counts = write_function_counts(tmp_path / "f.csv", [[90] * 6, [30] * 6, [20] * 6, [10] * 6])
    busiest, second, *_ = sorted(roots(arrivals=f"azure-functions:{counts}").values(), reverse=True)
    assert busiest > 2 * second
    with pytest.raises(LibraError, match="leave out --popularity"):
        roots(arrivals=f"azure-functions:{counts}", popularity="uniform")


def test_a_model_of_more_agents_than_adapters_shares_them_and_says_so() -> None:
    model = built_in_model(10)
    few = AgentGraph(model=model).generate(Demand(num_adapters=4, duration_s=200))
    assert few.header.counts["agents_that_share_an_adapter"] == 6
    assert {request.adapter for request in few.requests} == set(few.header.adapters)
    tools = {(request.adapter, request.prompt[0].id) for request in few.requests}
    assert len(tools) == 10, "agents that share an adapter keep their own tools"
    many = AgentGraph(model=model).generate(Demand(num_adapters=12, duration_s=200))
    assert many.header.counts["adapters_without_an_agent"] == 2


def test_a_model_file_is_named_behind_a_colon(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_model(path, learn_model("m", [call_graph(A, {A: {Callee(B, "rpc"): 1}})]))
    workload = find_workload(f"agent-graph:{path}")
    assert workload.num_adapters == 2
    trace = workload.generate(Demand(num_adapters=2, request_rate=2, duration_s=30))
    assert {len(task) for task in tasks_of(trace)} == {2}
    assert trace.header.parameters["graph_model"] == "m"
    assert find_workload("agent-graph") is AGENT_GRAPH
    for spec, message in (
        ("chatbot:x", "chatbot takes no file"),
        ("agent-grap:x", "did you mean 'agent-graph'"),
        ("agent-graph:", "cannot read"),
    ):
        with pytest.raises(LibraError, match=message):
            find_workload(spec)


@pytest.mark.parametrize("arrivals", ["poisson", "functions"])
def test_a_rate_too_low_for_any_task_is_refused(tmp_path: Path, arrivals: str) -> None:
    if arrivals == "functions":
        arrivals = f"azure-functions:{write_function_counts(tmp_path / 'f.csv', [[1] * 6] * 10)}"
    with pytest.raises(LibraError, match="no task in 60 s"):
        AGENT_GRAPH.generate(Demand(request_rate=1e-9, duration_s=60, arrivals=arrivals))
