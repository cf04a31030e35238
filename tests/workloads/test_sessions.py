"""Generators: rates, sessions, prefixes, and equality over processes."""

import itertools
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.errors import LibraError
from libra.request import Request, Segment
from workloads.chatbot import CHATBOT
from workloads.demand import Demand
from workloads.registry import WORKLOADS
from workloads.sessions import generate
from workloads.trace import Trace, parse_trace, trace_lines, trace_sha256

ROOT = Path(__file__).parents[2]


def sessions_of(trace: Trace) -> list[list[Request]]:
    grouped: defaultdict[str | None, list[Request]] = defaultdict(list)
    for request in trace.requests:
        grouped[request.session].append(request)
    return list(grouped.values())


@given(
    name=st.sampled_from(list(WORKLOADS)),
    seed=st.integers(0, 2**32),
    num_adapters=st.integers(1, 300),
    rate=st.floats(1.0, 8.0),
    arrivals=st.sampled_from(["poisson", "gamma:0", "gamma:2.5", "onoff:5,5,9", "ramp:1,4", "drift:20"]),
    popularity=st.sampled_from([None, "zipf:0.5", "uniform", "distinct", "identical", "gaussian:0.1"]),
)
@settings(max_examples=25)
def test_structure(name: str, seed: int, num_adapters: int, rate: float, arrivals: str, popularity: str | None) -> None:
    demand = Demand(num_adapters, rate, 60.0, seed, popularity, arrivals)
    trace = WORKLOADS[name].generate(demand)
    assert trace == WORKLOADS[name].generate(demand)
    assert parse_trace(trace_lines(trace), "memory") == trace  # sorted, unique ids, one adapter a session
    assert all(0 <= request.arrival_s < 60 for request in trace.requests if not request.after)
    assert [request.id for request in trace.requests] == list(range(len(trace.requests)))
    for session in sessions_of(trace):
        for earlier, later in itertools.pairwise(session):
            answered = (*earlier.prompt, Segment(earlier.output or "", 0, earlier.output_tokens))
            assert later.prompt[: len(answered)] == answered
            assert later.arrival_s > earlier.arrival_s


def test_two_processes_make_the_same_bytes() -> None:
    script = "from tests.workloads.test_sessions import digests\nfor digest in digests():\n    print(digest)"
    found = [
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert found == [digests(), digests()]


def digests() -> list[str]:
    """Of a trace of every workload, and one of every process that needs no file."""
    demands = [Demand(duration_s=60, seed=3, arrivals=arrivals) for arrivals in ("onoff:5,5", "ramp:1,4", "drift:20")]
    traces = [WORKLOADS[name].generate(Demand(duration_s=60, seed=3)) for name in WORKLOADS]
    return [trace_sha256(trace) for trace in (*traces, *(WORKLOADS["chatbot"].generate(demand) for demand in demands))]


@pytest.mark.parametrize("name", ["chatbot", "agents"])
def test_prefix_is_shared_within_an_adapter_and_not_across(name: str) -> None:
    trace = WORKLOADS[name].generate(Demand(duration_s=300))
    prefixes = {(request.adapter, request.prompt[0].id) for request in trace.requests}
    assert len(prefixes) == len({adapter for adapter, _ in prefixes}) == len({prefix for _, prefix in prefixes})


@pytest.mark.parametrize("ramp", ["ramp:1,3", "ramp:1,0"])
def test_requests_keep_the_rate_of_a_ramp_though_they_trail_their_sessions(ramp: str) -> None:
    config = replace(CHATBOT, max_context_tokens=100_000)  # no turn is cut
    counts = [len(generate(config, Demand(duration_s=900, seed=seed, arrivals=ramp)).requests) for seed in range(10)]
    # The mean of ten runs of 4,500 requests in clumps of a session's turns; without the lag it is 11 % off or more.
    assert sum(counts) / len(counts) == pytest.approx(4500, rel=0.04)


def test_contexts_are_capped_and_the_cut_turns_counted() -> None:
    config = replace(CHATBOT, max_utterance_tokens=256, max_context_tokens=1024)
    trace = generate(config, Demand(duration_s=600))
    assert max(request.num_prompt_tokens + request.output_tokens for request in trace.requests) <= 1024
    assert trace.header.counts["turns_cut_by_context"] > 100
    whole = generate(replace(config, max_context_tokens=100_000), Demand(duration_s=600))
    assert len(whole.requests) == len(trace.requests) + trace.header.counts["turns_cut_by_context"]


def test_arrivals_and_lengths_have_generators_of_their_own() -> None:
    zipf, uniform = (generate(CHATBOT, Demand(duration_s=300, popularity=name)) for name in ("zipf:1", "uniform"))
    assert [request.arrival_s for request in zipf.requests] == [request.arrival_s for request in uniform.requests]
    assert [request.output_tokens for request in zipf.requests] == [r.output_tokens for r in uniform.requests]
    assert [request.adapter for request in zipf.requests] != [request.adapter for request in uniform.requests]


def test_header_tells_what_was_generated() -> None:
    header = generate(CHATBOT, Demand(num_adapters=20, duration_s=100)).header
    assert header.provenance.adapter_source == "drawn"
    assert header.provenance.arrival_source == "generated"
    assert header.parameters["popularity"] == "zipf:1.0"
    assert header.parameters["answer_tokens"] == {"kind": "Exponential", "mean": 214.5}
    assert list(header.adapters)[:2] == ["lora-00", "lora-01"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_adapters": 0}, "--num-loras is 0"),
        ({"num_adapters": 10**11}, "--num-loras is 100000000000; a workload has at most 1,000,000"),
        ({"request_rate": 1e300}, "is 1.8e+303 requests; a workload has at most 50,000,000"),
        ({"request_rate": float("inf")}, "--request-rate is inf; it must be positive and finite"),
        ({"duration_s": -1.0}, "--duration is -1.0"),
        ({"seed": -1}, "--seed is -1"),
        ({"popularity": "zipg:1"}, "unknown popularity 'zipg': did you mean 'zipf'?"),
        ({"popularity": "zipf:x"}, "write zipf:NUMBER"),
        ({"popularity": "uniform:2"}, "uniform takes no value"),
        ({"popularity": "gaussian"}, "write gaussian:NUMBER"),
        ({"arrivals": "poison"}, "unknown arrival process 'poison': did you mean 'poisson'?"),
        ({"arrivals": "gamma:-1"}, "write gamma:CV"),
        ({"arrivals": "gamma:2", "burstiness": 0.5}, "leave out --burstiness"),
        ({"arrivals": "azure-functions"}, "write azure-functions:FILE"),
        ({"burstiness": 0.0}, "--burstiness is 0.0"),
        ({"request_rate": 1e-9}, "no request in 1800 s"),
    ],
)
def test_bad_demands_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(LibraError) as raised:
        WORKLOADS["chatbot"].generate(replace(Demand(), **change))  # type: ignore[arg-type]
    assert message in str(raised.value)


def test_unknown_workload_suggests_the_nearest() -> None:
    with pytest.raises(LibraError, match="did you mean 'translation'"):
        WORKLOADS["translations"]
