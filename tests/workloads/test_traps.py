"""Every trap of the published traces warns on data that has it and is silent on data that lacks it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from libra.errors import LibraError
from libra.request import Request, Segment
from libra.spec import MODELS
from tests.workloads.builders import mooncake_row, write_function_counts, write_mooncake
from workloads.columns import trace_columns
from workloads.demand import Demand
from workloads.header import Provenance, TraceHeader
from workloads.inspection import inspect_trace
from workloads.load import load_trace
from workloads.popularity import parse_popularity
from workloads.registry import WORKLOADS
from workloads.trace import Trace
from workloads.transform import scale_rate
from workloads.traps import arrival_warnings, context_cap_warnings, popularity_warnings, repeated_session_warnings

GENERATED = Provenance("generated", "generated", "generated", "generated")


def poisson_times(count: int, rate: float = 2.0, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def trace_at(times: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Trace:
    """Requests of one turn and one adapter at these times."""
    requests = tuple(
        Request(number, float(time), "a", 5, (Segment(f"t{number}", 0, 10 + number % 7),), output=f"o{number}")
        for number, time in enumerate(times)
    )
    header = TraceHeader("tests only", 0, GENERATED, float(times[-1]) + 1, {"a": 32})
    return Trace(header, requests)


def warnings_of(trace: Trace) -> str:
    return "; ".join(inspect_trace(trace, MODELS["llama3-8b"], (32,), 32).warnings)


@pytest.mark.parametrize("name", ["chatbot", "translation", "agents"])
@pytest.mark.parametrize("seed", [0, 1])
def test_generated_traces_warn_of_nothing(name: str, seed: int) -> None:
    assert warnings_of(WORKLOADS[name].generate(Demand(seed=seed, duration_s=900.0))) == ""


def test_lumps_of_a_coarse_clock() -> None:
    times = poisson_times(2000)
    assert arrival_warnings(times) == ()
    assert "lumps every 3 s" in arrival_warnings(times // 3 * 3)[0]
    assert "lumps every 3 s" in warnings_of(trace_at(times // 3 * 3))
    assert warnings_of(trace_at(times)) == ""


def test_a_reader_that_spreads_the_lumps_is_not_warned_about(tmp_path: Path) -> None:
    rows = [mooncake_row(int(time) // 3 * 3000, [number]) for number, time in enumerate(poisson_times(900))]
    trace = load_trace(write_mooncake(tmp_path / "m.jsonl", *rows))
    assert trace.header.provenance.arrival_source == "mapped"
    assert "lumps" not in warnings_of(trace)


def test_one_row_a_second_even_minutes_and_sums_over_14_days() -> None:
    assert "one row every 1 s" in warnings_of(trace_at(np.arange(600.0)))
    rng = np.random.default_rng(0)
    even = np.sort(np.concatenate([60 * minute + 60 * rng.random(30) for minute in range(12)]))
    assert "every minute has the same count (30)" in warnings_of(trace_at(even))
    summed = np.concatenate([60 * minute + np.sort(60 * rng.random(14 * (1 + minute % 3))) for minute in range(12)])
    assert "divisible by 14" in warnings_of(trace_at(summed))
    assert warnings_of(trace_at(poisson_times(600))) == ""


def test_a_stretched_trace_is_judged_by_its_recorded_clock() -> None:
    rng = np.random.default_rng(0)
    even = np.sort(np.concatenate([60 * minute + 60 * rng.random(30) for minute in range(12)]))
    stretched = scale_rate(trace_at(even), 0.3)
    assert arrival_warnings(np.array([request.arrival_s for request in stretched.requests])) == ()
    assert "every minute has the same count (30)" in warnings_of(stretched)


def test_arrivals_from_minute_counts_say_what_is_assumed_inside_a_minute(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(9, (5, 10)).tolist()
    path = write_function_counts(tmp_path / "counts.csv", counts)
    demand = Demand(num_adapters=5, duration_s=300, arrivals=f"azure-functions:{path}", burstiness=0.5)
    assert "burstiness_in_minute 0.5" in warnings_of(WORKLOADS["translation"].generate(demand))
    assert warnings_of(WORKLOADS["translation"].generate(replace(demand, arrivals="poisson"))) == ""


def test_lengths_that_cluster_under_a_context_cap() -> None:
    lengths = np.random.default_rng(0).lognormal(7, 1, 5000).astype(np.int64) + 1
    assert context_cap_warnings("prompt", lengths) == ()
    # A cap that leaves some slack: the cut is at a sentence's end.
    slack = np.random.default_rng(1).integers(0, 60, 5000)
    warning = context_cap_warnings("prompt", np.minimum(lengths, 4142 - slack))[0]
    assert "of prompt lengths lie at 4,0" in warning
    assert "a context cap cut them" in warning


@pytest.mark.parametrize(
    "lengths",
    [
        np.full(1000, 512),
        np.arange(1, 1001),
        np.random.default_rng(0).normal(1000, 15, 1000).astype(np.int64),
        np.random.default_rng(0).exponential(200, 1000).astype(np.int64) + 1,
        np.minimum(np.arange(1, 150), 100),
    ],
    ids=["constant", "uniform", "narrow", "exponential", "too few"],
)
def test_lengths_without_a_cap(lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    assert context_cap_warnings("prompt", lengths) == ()


def sessions_with(copies: int) -> Trace:
    """100 sessions of five turns, the last ``copies`` of them with the prompt lengths of the first ones."""
    rng = np.random.default_rng(0)
    lengths = np.cumsum(rng.integers(20, 400, (100, 5)), axis=1)
    lengths[100 - copies :] = lengths[:copies]
    requests = [
        Request(
            5 * session + turn,
            turn * 1000.0 + session,
            "a",
            5,
            (Segment(f"s{session}", 0, int(length)),),
            session=f"s{session}",
        )
        for session, row in enumerate(lengths)
        for turn, length in enumerate(row)
    ]
    requests.sort(key=lambda request: request.arrival_s)
    return Trace(TraceHeader("tests only", 0, GENERATED, 5000.0, {"a": 32}), tuple(requests))


def test_repeated_sessions() -> None:
    assert repeated_session_warnings(trace_columns(sessions_with(0).requests)) == ()
    assert "3 of 100 sessions" in repeated_session_warnings(trace_columns(sessions_with(3).requests))[0]


def test_sessions_cut_to_one_length_are_not_copies() -> None:
    requests = [replace(request, prompt=(Segment("x", 0, 9),)) for request in sessions_with(0).requests]
    assert repeated_session_warnings(trace_columns(requests)) == ()


def with_adapters(trace: Trace, per: str) -> Trace:
    """The trace with one of 20 adapters drawn per ``session``, or per ``request`` without sessions."""
    rng, names = np.random.default_rng(0), [f"lora-{number}" for number in range(20)]
    of_session = {request.session: names[rng.integers(20)] for request in trace.requests}
    requests = [
        replace(request, adapter=of_session[request.session])
        if per == "session"
        else replace(request, adapter=names[rng.integers(20)], session=None)
        for request in trace.requests
    ]
    return Trace(replace(trace.header, adapters=dict.fromkeys(names), parameters={}), tuple(requests))


def test_adapters_drawn_per_request_destroy_the_reuse() -> None:
    generated = WORKLOADS["chatbot"].generate(Demand(num_adapters=1, duration_s=900))
    histories = tuple(replace(request, prompt=request.prompt[1:]) for request in generated.requests)
    trace = replace(generated, requests=histories)
    assert warnings_of(trace) == ""
    assert warnings_of(with_adapters(trace, "session")) == ""
    found = with_adapters(trace, "request")
    assert "adapters divide the prefixes" in warnings_of(found)
    said = replace(found.header, parameters={"adapter_per": "request"}, warnings=("drawn per request",))
    assert warnings_of(replace(found, header=said)) == "drawn per request"


def popular(spec: str, named: str, sessions: int = 3000) -> tuple[TraceHeader, list[Request]]:
    """One-turn sessions whose adapters are drawn from ``spec`` and called ``named``."""
    drawn = parse_popularity(spec).assign(np.random.default_rng(0), sessions, 20).tolist()
    header = TraceHeader(
        "tests only", 0, GENERATED, float(sessions), {f"l{n}": 32 for n in range(20)}, {"popularity": named}
    )
    return header, [Request(n, float(n), f"l{a}", 5, (Segment(f"t{n}", 0, 9),)) for n, a in enumerate(drawn)]


@pytest.mark.parametrize(
    ("spec", "named", "warns"),
    [
        ("zipf:1.5", "zipf:1.5", False),
        ("zipf:1.0", "zipf:1.5", True),
        ("uniform", "zipf:1", True),
        ("uniform", "uniform", False),
    ],
)
def test_a_popularity_that_is_not_what_it_is_called(spec: str, named: str, warns: bool) -> None:
    header, requests = popular(spec, named)
    found = popularity_warnings(header, trace_columns(requests))
    assert bool(found) == warns
    if warns:
        assert f"popularity is called {named} and is not" in found[0]


def test_names_that_mean_something_else_elsewhere_are_refused() -> None:
    with pytest.raises(LibraError, match="unknown popularity 'alpha'"):
        parse_popularity("alpha:1")
