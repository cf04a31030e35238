"""Where a converted trace's adapters come from, in every combination of source, limit and option."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.errors import LibraError
from libra.request import Request, Segment
from workloads.adapter_mapping import give_adapters
from workloads.formats import AdapterMapping
from workloads.header import Provenance, TraceHeader
from workloads.trace import Trace, parse_trace, trace_lines


def recorded(sessions: list[str | None], source: str = "mapped") -> Trace:
    """One request a second; those of a session share a prefix of 64 tokens."""
    requests = tuple(
        Request(
            id=number,
            arrival_s=float(number),
            adapter=None,
            output_tokens=1,
            prompt=(Segment(f"{session or number}.p", 0, 64), Segment(f"r{number}", 0, 5)),
            session=session,
        )
        for number, session in enumerate(sessions)
    )
    provenance = Provenance(source, "native", "native", "native")
    return Trace(TraceHeader("t", 7, provenance, float(len(sessions)), {}), requests)


def adapters(trace: Trace) -> list[str | None]:
    return [request.adapter for request in trace.requests]


KEYS = ["b", "a", "a", None, "c", "a", "b", "d"]


@pytest.mark.parametrize("source", ["native", "mapped"])
def test_keys_become_adapters_by_popularity(source: str) -> None:
    trace = give_adapters(recorded([None] * 8, source), KEYS, "model", AdapterMapping())
    assert adapters(trace) == KEYS
    assert list(trace.header.adapters) == ["a", "b", "c", "d"]
    assert trace.header.provenance.adapter_source == source
    assert trace.header.parameters == {"adapter_key": "model", "num_keys": 4}


def test_other_keys_share_the_top_adapters_in_turn() -> None:
    trace = give_adapters(recorded([None] * 8, "native"), KEYS, "model", AdapterMapping(num_adapters=2))
    assert adapters(trace) == ["b", "a", "a", None, "a", "a", "b", "b"]
    assert list(trace.header.adapters) == ["a", "b"]
    assert trace.header.provenance.adapter_source == "mapped"
    assert trace.header.counts == {"requests_of_other_keys_sharing_an_adapter": 2}


def test_other_keys_are_dropped_and_counted() -> None:
    mapping = AdapterMapping(num_adapters=2, other_keys="drop")
    trace = give_adapters(recorded([None] * 8, "native"), KEYS, "model", mapping)
    assert adapters(trace) == ["b", "a", "a", None, "a", "b"]
    assert trace.header.counts == {"skipped_of_other_keys": 2}
    assert trace.header.provenance.adapter_source == "native"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (AdapterMapping(num_adapters=9), "--num-loras 9: t has 4 of model; use --num-loras 4 or less"),
        (AdapterMapping(source="native"), "--adapters native: t has no such field; use --adapters mapped or drawn"),
    ],
)
def test_mappings_that_the_keys_cannot_serve(mapping: AdapterMapping, message: str) -> None:
    with pytest.raises(LibraError, match=message):
        give_adapters(recorded([None] * 8), KEYS, "model", mapping)


def test_a_format_without_keys_has_nothing_to_map() -> None:
    with pytest.raises(LibraError, match="--adapters mapped: t has no such field; use --adapters drawn"):
        give_adapters(recorded([None], "drawn"), None, "", AdapterMapping(source="mapped"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "nativ"}, "unknown adapter source 'nativ': did you mean 'native'"),
        ({"other_keys": "share it"}, "unknown use of other keys"),
        ({"num_adapters": 0}, "--num-loras is 0"),
        ({"source": "mapped", "popularity": "uniform"}, "--popularity uniform draws adapters"),
        ({"source": "native", "per_request": True}, "--adapter-per request draws adapters"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, object], message: str) -> None:
    with pytest.raises(LibraError, match=message):
        AdapterMapping(**options)  # type: ignore[arg-type]


def test_popularity_and_drawn_override_keys() -> None:
    for mapping in (AdapterMapping(source="drawn"), AdapterMapping(popularity="zipf:1.0")):
        trace = give_adapters(recorded([None] * 8), KEYS, "model", mapping)
        assert trace.header.provenance.adapter_source == "drawn"
        assert len(trace.header.adapters) == 50
        assert trace.header.parameters == {"num_adapters": 50, "popularity": "zipf:1.0"}


def test_per_request_splits_sessions_and_says_what_it_costs() -> None:
    sessions: list[str | None] = [f"s{number % 10}" for number in range(200)]
    per_session = give_adapters(recorded(sessions), None, "", AdapterMapping(num_adapters=20, popularity="uniform"))
    assert per_session.header.counts == {}
    assert per_session.header.warnings == ()
    mapping = AdapterMapping(num_adapters=20, popularity="uniform", per_request=True)
    trace = give_adapters(recorded(sessions), None, "", mapping)
    assert trace.header.counts == {"sessions_split_by_adapter": 10}
    assert trace.header.parameters["adapter_per"] == "request"
    (warning,) = trace.header.warnings
    assert "prefix hits are " in warning
    # 64 of 69 tokens are two blocks, in all requests of a session but the first.
    assert "would be 88.1% per session" in warning
    assert parse_trace(trace_lines(trace), "memory") == trace


def test_a_session_with_several_keys_is_split() -> None:
    trace = give_adapters(recorded(["s", "s", "s"]), ["a", "b", "a"], "model", AdapterMapping())
    assert [request.session for request in trace.requests] == ["s", "s/b", "s"]
    assert trace.header.counts == {"sessions_split_by_adapter": 1}


@settings(max_examples=30)
@given(
    sessions=st.lists(st.sampled_from([None, "s0", "s1", "s2", "s3"]), min_size=1, max_size=40),
    keys=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=40, max_size=40),
    limit=st.sampled_from([None, 1, 2]),
    source=st.sampled_from([None, "drawn"]),
    other_keys=st.sampled_from(["share", "drop"]),
    per_request=st.booleans(),
)
def test_adapters_are_constant_along_sessions(
    sessions: list[str | None],
    keys: list[str | None],
    limit: int | None,
    source: str | None,
    other_keys: str,
    per_request: bool,
) -> None:
    used = keys[: len(sessions)]
    mapping = AdapterMapping(limit, None, source, other_keys, per_request)
    if source is None and not per_request and (limit or 0) > len(set(used) - {None}):
        return
    trace = give_adapters(recorded(sessions), used, "key", mapping)
    along: defaultdict[str, set[str | None]] = defaultdict(set)
    for request in trace.requests:
        assert request.adapter is None or request.adapter in trace.header.adapters
        if request.session is not None:
            along[request.session].add(request.adapter)
    assert all(len(found) == 1 for found in along.values())
    dropped = trace.header.counts.get("skipped_of_other_keys", 0)
    assert len(trace.requests) + dropped == len(sessions)
