"""The search for the peak rate: the rule, the grid, early stops, and the command."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.cli import main
from bench.patience import HopelessRun, Patience, hopeless_factor
from bench.peak import DOUBLINGS, Peak, PeakRule, PeakSearch, Probe, find_peak, highest_step, plan_searches
from bench.peak_table import peak_table
from bench.settings import BenchSettings
from bench.slo import Objectives
from bench.statistics import Estimate, estimate
from libra.cache.fastlibra import FASTLIBRA
from libra.engine.replay import replay
from libra.errors import LibraError
from tests.libra.builders import build_engine, request

SMALL = BenchSettings(
    workload="chatbot", policies=("fastlibra",), num_loras=4, duration_s=20.0, hbm_cache_gib=1.0, request_rate=4.0
)


# ---- the search ----------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(st.integers(-100, 100), st.integers(1, 15))
def test_the_highest_step_of_a_monotone_answer_is_found(last: int, doubling: int) -> None:
    asked: list[int] = []

    def meets(step: int) -> bool:
        asked.append(step)
        return step <= last

    low, high = highest_step(meets, doubling)
    limit = DOUBLINGS * doubling
    if last >= limit:
        assert (low, high) == (limit, None)
    elif last < -limit:
        assert (low, high) == (None, -limit)
    else:
        assert (low, high) == (last, last + 1)
    assert len(set(asked)) == len(asked) <= DOUBLINGS + 1 + doubling.bit_length()


def test_the_grid_doubles_after_the_steps_it_says() -> None:
    rule = PeakRule(tolerance=0.05)
    assert rule.rate(4.0, 0) == 4.0
    assert rule.rate(4.0, 1) == pytest.approx(4.2)
    assert rule.rate(4.0, rule.doubling) == pytest.approx(8.0, rel=0.025)


def test_a_rate_meets_when_the_interval_lies_below_every_limit() -> None:
    rule = PeakRule(Objectives(ttft=500.0, tpot=50.0))
    means = {"ttft": Estimate(400.0, 310.0, 490.0), "tpot": Estimate(40.0), "e2el": Estimate(9e9)}
    assert rule.meets(means)
    assert not rule.meets(means | {"ttft": Estimate(400.0, 290.0, 510.0)})
    assert not rule.meets(means | {"tpot": Estimate(50.0)})
    assert not rule.meets(means | {"tpot": Estimate(None)})


@pytest.mark.parametrize("change", [{"objectives": Objectives()}, {"tolerance": 0.0}, {"tolerance": 2.0}])
def test_a_rule_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(LibraError, match=r"--slo|--tolerance"):
        replace(PeakRule(), **change)


# ---- early stops ---------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.lists(st.floats(0.0, 1e4), min_size=1, max_size=11), st.floats(1.0, 1e3))
def test_a_seed_above_the_factor_settles_the_interval(others: list[float], limit: float) -> None:
    seeds = [limit * hopeless_factor(len(others) + 1) * 1.0001, *others]
    figure = estimate(seeds)
    assert figure.high is not None
    assert figure.high > limit


def test_one_seed_has_no_interval_and_no_factor() -> None:
    assert hopeless_factor(1) == 1.0
    assert hopeless_factor(3) == 1.0
    assert hopeless_factor(10) > 3.0


def test_a_run_is_stopped_only_when_its_mean_is_sure_to_be_too_high() -> None:
    burst = [request(n, prompt=(n,) * 30, output=(1,) * 40) for n in range(40)]
    engine = build_engine(FASTLIBRA, hbm_blocks=24)
    mean_ms = 1000 * sum((r.first_token_s or 0.0) - r.arrival_s for r in replay(engine, burst).records) / len(burst)

    def run(limit_ms: float) -> None:
        engine = build_engine(FASTLIBRA, hbm_blocks=24)
        replay(engine, burst, on_progress=Patience(limit_ms).watch(engine, len(burst), lambda now_s, done: None))

    run(1.01 * mean_ms)
    with pytest.raises(HopelessRun, match="requests waiting") as stopped:
        run(0.5 * mean_ms)
    assert stopped.value.waiting > 0


# ---- whole searches ------------------------------------------------------------------------------------------------


def peak_of(**changes: object) -> Peak:
    rule = PeakRule(tolerance=0.2)
    (search,) = plan_searches(replace(SMALL, **changes), rule)  # type: ignore[arg-type]
    return find_peak(search)


def test_a_peak_is_between_a_rate_that_meets_and_one_that_fails() -> None:
    peak = peak_of()
    assert peak.rate is not None
    assert peak.next_rate == pytest.approx(1.2 * peak.rate)
    verdicts = {probe.request_rate: probe.meets for probe in peak.probes}
    assert verdicts[peak.rate]
    assert not verdicts[peak.next_rate]
    assert any(probe.stopped_s is not None for probe in peak.probes)
    assert peak.at_peak is not None
    assert peak.at_peak.means["ttft"].mean is not None


def test_more_memory_carries_no_less() -> None:
    rates = [peak_of(hbm_cache_gib=gib, duration_s=10.0).rate or 0.0 for gib in (0.6, 1.0)]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_all_policies_are_tried_with_the_cache_of_the_first_rate() -> None:
    given_fraction = replace(SMALL, policies=("fastlibra", "slora"), hbm_cache_gib=None, cache_fraction=0.5)
    first, second = plan_searches(given_fraction, PeakRule())
    assert first.settings == second.settings
    assert first.settings.cache_fraction is None
    assert first.settings.hbm_cache_gib is not None
    assert (first.policy, second.policy, first.start_rate) == ("fastlibra", "slora", 4.0)


def test_an_oracle_carries_at_least_what_the_policy_does_that_it_chooses_from() -> None:
    shares = {name: peak_of(policies=(name,), duration_s=5.0) for name in ("vllm", "vllm-oracle")}
    assert (shares["vllm-oracle"].rate or 0.0) >= (shares["vllm"].rate or 0.0)
    assert {probe.policy for probe in shares["vllm-oracle"].probes} == {"vllm-oracle"}


# ---- the command ---------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        main(["peak", "--workload", "chatbot", "--num-loras", "4", "--disable-tqdm", *arguments])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


def test_the_command_prints_a_table_and_leaves_its_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ("--duration", "10", "--repeats", "2", "--tolerance", "0.5", "--hbm-cache-gib", "1")
    code, stdout, _ = run(capsys, *arguments, "--policy", "lru,slora", "--out", str(tmp_path / "peak"))
    assert code == 0
    line = json.loads(stdout.splitlines()[-1])
    assert set(line["policies"]) == {"lru", "slora"}
    assert "mean TTFT < 500 ms" in stdout
    assert "2 paired seeds" in stdout
    expected = {"peak.csv", "probes.csv", "meta.json", "report.html"}
    assert {path.name for path in (tmp_path / "peak").iterdir()} == expected
    with (tmp_path / "peak" / "peak.csv").open() as file:
        rows = {row["policy"]: float(row["peak_load_rps"]) for row in csv.DictReader(file)}
    assert rows == {name: entry["peak_load_rps"] for name, entry in line["policies"].items()}
    assert json.loads((tmp_path / "peak" / "meta.json").read_text())["study"] == "peak"


def test_two_objectives_fit_into_80_columns() -> None:
    means = {"ttft": Estimate(412.3, 399.0, 425.6), "tpot": Estimate(21.4, 20.1, 22.7)}
    probe = Probe("vllm-offload", 23.5, (0, 1), means, 0, meets=True)
    search = PeakSearch(SMALL, PeakRule(Objectives(ttft=500.0, tpot=50.0)), "vllm-offload", 4.0)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(peak_table([Peak("vllm-offload", 23.5, 24.7, (probe,))], search, "Peak load"))
    row = next(line for line in capture.get().splitlines() if line.startswith("vllm-offload"))
    assert row.split() == ["vllm-offload", "23.5", "24.7", "1.00x", "412", "±13", "21.4", "±1.3", "1", "0"]
    assert "…" not in capture.get()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--device", "cpu"), "searched in simulation"),
        (("--slo", "tfft:5"), "unknown objective in --slo 'tfft': did you mean 'ttft'?"),
        (("--slo", ""), "--slo sets no limit"),
        (("--tolerance", "0"), "--tolerance must lie between"),
        (("--policy", "lruu"), "did you mean 'lru'?"),
        (("--jobs", "0"), "--jobs must be at least 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stdout, stderr = run(capsys, *arguments)
    assert (code, stdout) == (2, "")
    assert expected in stderr
    assert stderr.count("\n") == 1


def test_a_search_says_all_that_decides_it() -> None:
    """So that a worker in another process, or on another machine, finds the same peak."""
    (search,) = plan_searches(SMALL, PeakRule(tolerance=0.5))
    assert isinstance(search, PeakSearch)
    assert find_peak(search) == find_peak(search)
