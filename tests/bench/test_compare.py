"""Comparing runs: differences that are there are found, others are not, and unlike runs are refused."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bench.bootstrap import WeightedSample, cluster_requests, draw_weights
from bench.compare import Difference, PolicyComparison, compare_policies
from bench.compare_cli import compare
from bench.compare_options import CompareOptions
from bench.documents import RunInfo
from bench.metrics import summarise
from bench.output import write_run
from bench.pairing import choose_policies
from bench.saved_run import SavedRun, load_run
from libra.engine.record import RunResult
from libra.errors import LibraError
from tests.bench.fabricate import CONDITIONS, Plausible, plausible_run, record, result

FAST = CompareOptions(resamples=400)


def saved(path: Path, results: list[RunResult], digest: str | None = "aa") -> SavedRun:
    policies = dict.fromkeys(item.policy for item in results)
    summaries = [summarise([item for item in results if item.policy == policy]) for policy in policies]
    digests = {} if digest is None else {item.seed: digest for item in results}
    write_run(path, results, summaries, RunInfo("libra bench", CONDITIONS, trace_sha256=digests))
    return load_run(path)


def noisy(style: Plausible, noise_seed: int, shift_ms: float = 0.0, seeds: int = 2) -> list[RunResult]:
    """Runs of ``style`` whose first tokens are moved by noise of mean ``shift_ms``, alike within a session."""
    results = []
    for seed in range(seeds):
        run = plausible_run(style, seed, 240)
        generator = np.random.default_rng([noise_seed, seed])
        moves = generator.normal(shift_ms / 1000, 0.02, 240)
        for item in run.records:
            move = float(moves[item.id // 3])
            item.first_token_s = (item.first_token_s or 0.0) + move
            item.finish_s = (item.finish_s or 0.0) + move
        results.append(run)
    return results


def by_metric(comparison: PolicyComparison) -> dict[str, Difference]:
    return {difference.metric: difference for difference in comparison.differences}


def test_planted_difference_is_found(tmp_path: Path) -> None:
    run_a = saved(tmp_path / "a", noisy(Plausible(), 1))
    run_b = saved(tmp_path / "b", noisy(Plausible(), 2, shift_ms=30.0))
    found = by_metric(compare_policies(run_a, "fastlibra", run_b, "fastlibra", FAST))
    mean = found["mean_ttft_ms"]
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low < 30 < mean.high
    assert mean.verdict == found["mean_e2el_ms"].verdict == "slower"
    assert found["mean_tpot_ms"].verdict == "same"


def test_no_difference_is_found_where_there_is_none(tmp_path: Path) -> None:
    verdicts = []
    for noise in range(10):
        run_a = saved(tmp_path / f"a{noise}", noisy(Plausible(), 100 + noise))
        run_b = saved(tmp_path / f"b{noise}", noisy(Plausible(), 200 + noise))
        found = by_metric(compare_policies(run_a, "fastlibra", run_b, "fastlibra", FAST))
        verdicts.append(found["mean_ttft_ms"].verdict)
    # 5 % of true nulls fall outside a 95 % interval: three of ten do so once in 87 such tests.
    assert verdicts.count("same") >= 8


def test_run_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    run = saved(tmp_path, noisy(Plausible(), 1))
    comparison = compare_policies(run, "fastlibra", run, "fastlibra", FAST)
    assert {difference.difference for difference in comparison.differences} == {0.0}
    assert not any(difference.significant for difference in comparison.differences)
    assert comparison.num_pairs == 480
    assert comparison.num_clusters == 160


def test_figures_are_those_of_numpy(tmp_path: Path) -> None:
    run = saved(tmp_path, noisy(Plausible(), 1))
    found = by_metric(compare_policies(run, "fastlibra", run, "fastlibra", FAST))
    ttft = run.rows["ttft_ms"].to_numpy()
    assert found["mean_ttft_ms"].a == pytest.approx(ttft.mean())
    assert found["p95_ttft_ms"].a == pytest.approx(np.percentile(ttft, 95))


def test_same_seed_gives_same_intervals(tmp_path: Path) -> None:
    run_a, run_b = saved(tmp_path / "a", noisy(Plausible(), 1)), saved(tmp_path / "b", noisy(Plausible(), 2))
    first, again = (compare_policies(run_a, "fastlibra", run_b, "fastlibra", FAST) for _ in range(2))
    other = dataclasses.replace(FAST, seed=1)
    assert first == again
    assert first != compare_policies(run_a, "fastlibra", run_b, "fastlibra", other)


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 4)), min_size=1, max_size=25),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
)
def test_weighted_sample_is_the_repeated_sample(pairs: list[tuple[float, int]], weights: list[int]) -> None:
    values, clusters = np.array([value for value, _ in pairs]), np.array([cluster for _, cluster in pairs])
    repeated = np.repeat(values, np.array(weights)[clusters])
    found = WeightedSample(values, clusters, 5).summarise(np.array(weights), (0.5, 0.95))
    if repeated.size:
        expected = [repeated.mean(), *np.percentile(repeated, [50, 95])]
        assert found == pytest.approx(expected, abs=1e-6)
    else:
        assert np.isnan(found).all()


def test_sessions_are_drawn_whole_within_their_seed() -> None:
    clusters = cluster_requests([0, 0, 0, 1, 1], ["s", "s", "", "s", ""], [1, 2, 3, 1, 2])
    assert clusters.of_request.tolist() == [0, 0, 1, 2, 3]
    assert [members.tolist() for members in clusters.of_seed] == [[0, 1], [2, 3]]
    for weights in draw_weights(clusters, 50, np.random.default_rng(0)):
        assert weights.sum() == 4
        assert weights[:2].sum() in (0, 2, 4), "a seed is drawn 0, 1 or 2 times, with as many sessions as it has"


def test_one_session_gives_no_interval(tmp_path: Path) -> None:
    run = saved(tmp_path, [result([record(), record(id=1, arrival_s=0.02)])])
    comparison = compare_policies(run, "fastlibra", run, "fastlibra", FAST)
    assert {difference.low for difference in comparison.differences} == {None}
    assert {difference.verdict for difference in comparison.differences} == {"same"}


def test_only_requests_finished_in_both_are_paired(tmp_path: Path) -> None:
    refused = record(id=1, session="s1", status="rejected", first_token_s=None, finish_s=None)
    run_a = saved(tmp_path / "a", [result([record(), record(id=1, session="s1"), record(id=2, session="s2")])])
    run_b = saved(tmp_path / "b", [result([record(), refused, record(id=2, session="s2")])])
    comparison = compare_policies(run_a, "fastlibra", run_b, "fastlibra", FAST)
    assert (comparison.num_pairs, comparison.only_a, comparison.only_b) == (2, 1, 0)


def test_unlike_runs_are_refused_unless_allowed(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", [result([record()])])
    other_trace = saved(tmp_path / "trace", [result([record()])], digest="bb")
    other_adapter = saved(tmp_path / "adapter", [result([record(adapter="a7")])])
    no_digest = saved(tmp_path / "old", [result([record()])], digest=None)
    other_request = saved(tmp_path / "request", [result([record(prompt_tokens=7)])], digest=None)
    allowed = dataclasses.replace(FAST, allow_different=True)
    for first, second, message in (
        (base, other_trace, "different traces for seed 0"),
        (base, other_adapter, "has adapter a0 and a7"),
        (no_digest, other_request, "has prompt_tokens 100 and 7"),
    ):
        with pytest.raises(LibraError, match=message) as error:
            compare_policies(first, "fastlibra", second, "fastlibra", FAST)
        assert "\n" not in str(error.value)
        assert compare_policies(first, "fastlibra", second, "fastlibra", allowed).num_pairs == 1


def test_requests_of_one_trace_may_differ_in_arrival_and_length(tmp_path: Path) -> None:
    # A turn that waits for an answer, text that each server counts for itself, and answers that end where they will.
    turns = [record(), record(id=1, session="s1", arrival_s=0.02)]
    others = [record(prompt_tokens=103), record(id=1, session="s1", arrival_s=0.03, output_tokens=2)]
    saved(tmp_path / "a", [result(turns)])
    saved(tmp_path / "b", [result(others)])
    text = invoke(str(tmp_path / "a"), str(tmp_path / "b"))
    assert "2 requests paired" in text
    assert "not of equal length in A and B: 1 prompts and 1 answers" in text
    assert "equal length" not in invoke(str(tmp_path / "a"), str(tmp_path / "a"))


def test_runs_without_a_common_seed_or_request_are_refused(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", [result([record()])])
    other_seed = saved(tmp_path / "seed", [result([record()], seed=5)])
    with pytest.raises(LibraError, match="share no seed"):
        compare_policies(base, "fastlibra", other_seed, "fastlibra", FAST)
    other_id = saved(tmp_path / "id", [result([record(id=9)])])
    with pytest.raises(LibraError, match="no request finished both"):
        compare_policies(base, "fastlibra", other_id, "fastlibra", FAST)


def test_policies_are_matched_by_name_or_chosen(tmp_path: Path) -> None:
    two = saved(tmp_path / "two", [result([record()]), result([record()], policy="vllm")])
    one = saved(tmp_path / "one", [result([record()], policy="slora")])
    lru = saved(tmp_path / "lru", [result([record()], policy="lru")])
    assert choose_policies(two, two) == [("fastlibra", "fastlibra"), ("vllm", "vllm")]
    assert choose_policies(one, lru) == [("slora", "lru")]
    assert choose_policies(two, two, "vllm") == [("vllm", "vllm")]
    assert choose_policies(two, two, "vllm", "fastlibra") == [("vllm", "fastlibra")]
    assert choose_policies(one, two, policy_b="vllm") == [("slora", "vllm")]
    for arguments, message in (
        ((two, one), "no policy in common"),
        ((two, two, "vlm"), "did you mean 'vllm'"),
        ((two, one, None, "slora"), "choose its own with --policy"),
    ):
        with pytest.raises(LibraError, match=message):
            choose_policies(*arguments)  # type: ignore[arg-type]


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[str, str]:
    saved(tmp_path / "a", noisy(Plausible(), 1))
    saved(tmp_path / "b", noisy(Plausible(), 2, shift_ms=30.0))
    return str(tmp_path / "a"), str(tmp_path / "b")


def invoke(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(compare)
    outcome = CliRunner().invoke(app, [*arguments, "--resamples", "200"], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_command_prints_a_table_with_verdicts(two_runs: tuple[str, str]) -> None:
    text = invoke(*two_runs)
    assert "▲ slower" in text
    assert "480 requests paired, 160 sessions, 2 seeds" in text
    assert "200 resamples" in text


def test_command_prints_csv_and_json(two_runs: tuple[str, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(invoke(*two_runs, "--format", "csv"))))
    assert len(rows) == 9
    assert rows[0]["metric"] == "mean_ttft_ms"
    assert rows[0]["verdict"] == "slower"
    document = json.loads(invoke(*two_runs, "--format", "json"))
    assert document["comparisons"][0]["differences"][0]["difference"] == pytest.approx(float(rows[0]["difference"]))


def test_saturated_runs_are_named(tmp_path: Path) -> None:
    slow = [plausible_run(Plausible(overload=0.4), 0, 240)]
    saved(tmp_path / "a", [plausible_run(Plausible(), 0, 240)])
    saved(tmp_path / "b", slow)
    assert "SATURATED: B" in invoke(str(tmp_path / "a"), str(tmp_path / "b"))
