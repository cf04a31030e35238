"""Objectives as `--goodput` takes them."""

from dataclasses import replace
from itertools import pairwise

import pytest

from baselines import POLICIES
from bench.run import run_bench
from bench.settings import BenchSettings
from bench.slo import Multiple, Objectives, parse_limits, parse_objectives
from bench.slo_reference import one_at_a_time, without_adapters
from libra.engine.replay import replay
from libra.errors import LibraError
from tests.libra.builders import build_engine
from tests.libra.loads import session_load


@pytest.mark.parametrize("texts", [["ttft:500 tpot:50"], ["ttft:500", "tpot:50"], ["ttft:500,tpot:50"]])
def test_all_spellings_read_the_same(texts: list[str]) -> None:
    assert parse_objectives(texts) == Objectives(ttft=500, tpot=50)


def test_no_objectives_are_falsy() -> None:
    assert not parse_objectives([])
    assert parse_objectives(["e2el:1"])


def test_objectives_print_as_they_are_written() -> None:
    assert str(Objectives(ttft=500, e2el=2500.5)) == "ttft:500 e2el:2500.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tttf:500", "did you mean 'ttft'"),
        ("ttft", "NAME:MILLISECONDS"),
        ("ttft:fast", "positive number"),
        ("ttft:-1", "positive number"),
        ("ttft:0", "positive number"),
        ("ttft:nan", "positive number"),
        ("ttft:inf", "positive number"),
        ("ttft:1 ttft:2", "given twice"),
        ("ttft:5x", "no reference run here"),
        ("ttft:0x", "positive number"),
    ],
)
def test_bad_objectives_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(LibraError, match=message) as error:
        parse_objectives([text])
    assert "\n" not in str(error.value)


# ---- relative objectives -------------------------------------------------------------------------------------------


def test_limits_are_milliseconds_or_multiples() -> None:
    limits = parse_limits(["ttft:5x tpt:1.5x", "e2el:900"])
    assert limits == {"ttft": Multiple(5.0), "tpt": Multiple(1.5), "e2el": 900.0}
    assert [f"{limit}" for limit in limits.values()] == ["5x", "1.5x", "900.0"]


def test_the_same_requests_without_adapters_and_one_at_a_time() -> None:
    load = session_load(12, ["a0", "a1"], seed=3, mean_gap_s=0.001)
    plain = without_adapters(load)
    assert {wanted.adapter for wanted in plain} == {None}
    assert [(w.id, w.prompt, w.arrival_s) for w in plain] == [(w.id, w.prompt, w.arrival_s) for w in load]
    records = replay(build_engine(POLICIES["fastlibra"], 60), one_at_a_time(load)).records
    assert [record.status for record in records] == ["finished"] * 12
    for before, after in pairwise(sorted(records, key=lambda record: record.arrival_s)):
        assert after.arrival_s == before.finish_s
    assert max(record.queue_s for record in records) < 0.02


def test_relative_limits_are_so_many_times_what_the_reference_runs_tell() -> None:
    settings = BenchSettings(
        workload="chatbot", num_loras=4, request_rate=1.0, duration_s=20.0, cache_fraction=0.5, policies=("slora",)
    )
    loose, tight = (
        run_bench(replace(settings, goodput=(f"tpt:{factor}x", f"ttft:{5 * factor}x")), disable_tqdm=True)
        for factor in (2.0, 1.0)
    )
    limits = [outcome.options.objectives for outcome in (loose, tight)]
    assert limits[0].tpt == pytest.approx(2 * limits[1].tpt)  # type: ignore[operator]
    assert limits[0].ttft == pytest.approx(2 * limits[1].ttft)  # type: ignore[operator]
    attained = [outcome.summaries()[0].mean("slo_attainment") for outcome in (loose, tight)]
    assert attained[0] > attained[1]  # type: ignore[operator]
    assert loose.notes[0].startswith("objectives tpt:2.0x ttft:10.0x come to ttft:")
