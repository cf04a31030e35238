"""Pages of several runs, of sweeps and of searches for peak loads."""

from pathlib import Path

import pytest

import bench.report.render
from bench.report.render import policy_order, render, render_study, run_names
from bench.saved_run import SavedRun, load_run
from bench.saved_study import is_study, load_study
from bench.slo import Objectives
from bench.study_output import study_meta, write_study
from libra.errors import LibraError
from tests.bench.report.pages import Parsed, save, some_runs

GRID = {"cache_fraction": ("0.2", "0.4"), "request_rate": ("2", "4"), "seed": ("0", "1"), "policy": ("lru", "vllm")}


def saved_at(folder: Path, *rates: float, num_policies: int = 2) -> list[SavedRun]:
    limits = Objectives(ttft=400.0)
    return [save(folder / f"r{rate:g}", some_runs(num_policies), rate=rate, objectives=limits) for rate in rates]


def sweep_rows() -> list[dict[str, object]]:
    """TTFT grows with the rate, falls with the cache, and one cell cannot run."""
    rows: list[dict[str, object]] = []
    for fraction in GRID["cache_fraction"]:
        for rate in GRID["request_rate"]:
            for seed in GRID["seed"]:
                for policy, factor in (("lru", 1.0), ("vllm", 1.5)):
                    values = {"cache_fraction": fraction, "request_rate": rate, "seed": seed, "policy": policy}
                    if (policy, fraction, rate) == ("vllm", "0.2", "4"):
                        rows.append({**values, "fault": "the cache is too small"})
                        continue
                    ttft = factor * (100 * float(rate) + int(seed)) / float(fraction)
                    figures = {"mean_ttft_ms": ttft, "p95_ttft_ms": 2 * ttft, "mean_tpot_ms": 8.0}
                    rows.append({**values, "fault": None, "saturated": ttft > 1500, **figures})
    return rows


def save_sweep(folder: Path, *, partial: bool = False) -> None:
    rows = sweep_rows()
    details = {"fixed": {"workload": "chatbot"}, "grid": GRID, "num_cells": 16, "num_done": len(rows)}
    details |= {"revisions": ["a"]}
    write_study(folder, {"sweep.csv": rows}, study_meta("sweep", partial, details))


def test_runs_that_differ_in_rate_give_curves_with_the_limit(tmp_path: Path) -> None:
    page = Parsed(render(saved_at(tmp_path, 3.0, 5.0, 7.0)))
    title, first, *_ = page.sections
    assert title == "chatbot on llama3-8b, 50 adapters"
    assert first == "Latency against load: chatbot on llama3-8b, 50 adapters"
    assert page.chart_labels[0].startswith("TTFT mean against requests per second. fastlibra: ")
    assert " ms at 3, " in page.chart_labels[0]
    assert "Limit: 400 ms (dashed)." in page.text
    assert [row[0] for row in page.tables["Runs"]] == ["run", "r3", "r5", "r7"]
    assert [row[0] for row in page.tables["TTFT mean, ms"]] == ["run", "r3", "r5", "r7"]
    assert page.elements["section"] > 3 * 5


def test_runs_of_one_rate_give_no_curves_and_are_compared_request_by_request(tmp_path: Path) -> None:
    runs = [save(tmp_path / name, some_runs(1)) for name in ("a", "b")]
    page = Parsed(render(runs))
    assert not any("against requests" in label for label in page.chart_labels)
    rows = {row[0]: row[1:] for row in page.tables["fastlibra"]}
    assert rows["TTFT mean ms"][2:] == ["0", "[0, 0]", "+0.0", "same"]
    assert "120 requests paired" in page.text


def test_runs_that_cannot_be_paired_say_why(tmp_path: Path) -> None:
    runs = [save(tmp_path / str(seed), some_runs(1, seeds=(seed,))) for seed in (0, 1)]
    text = Parsed(render(runs)).text
    assert "Not compared request by request: " in text
    assert "share no seed." in text


def test_runs_without_a_place_on_the_page_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = saved_at(tmp_path, 3.0, 5.0, 7.0, num_policies=1)
    full = len(render(runs).encode())
    monkeypatch.setattr(bench.report.render, "MAX_BYTES", full - 10_000)
    text = render(runs)
    assert len(text.encode()) < full - 10_000
    assert "No room on this page for the details of r7" in Parsed(text).text


def test_runs_are_told_apart_by_as_much_of_their_paths_as_it_takes() -> None:
    assert run_names([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert run_names([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]
    assert run_names([Path("/a/x"), Path("/a/x")]) == ["x", "x"]


def test_colours_belong_to_policies_across_runs(tmp_path: Path) -> None:
    runs = [save(tmp_path / "two", some_runs(2)), save(tmp_path / "six", some_runs(6, seeds=(0,)))]
    order = policy_order(runs)
    assert order[:2] == ["fastlibra", "vllm"]
    assert len(order) == 6


def test_sweep_is_averaged_over_seeds_and_drawn_over_its_rates(tmp_path: Path) -> None:
    save_sweep(tmp_path, partial=True)
    page = Parsed(render_study(load_study(tmp_path)))
    assert page.sections[0] == "Sweep of cache_fraction, request_rate, policy"
    assert page.sections[1:3] == [
        "Latency against requests per second: cache_fraction 0.2",
        "Latency against requests per second: cache_fraction 0.4",
    ]
    rows = page.tables["TTFT mean, ms"]
    assert rows[0] == ["setting", "lru", "vllm"]
    # 1000 and 1005 for the two seeds.
    assert rows[1][:2] == ["cache_fraction 0.2, request_rate 2", "1,002 ±32"]
    assert rows[2][2] == "cannot run"
    assert "2 of 16 cells could not run" in page.text
    assert "PARTIAL: 16 of 16 cells" in page.text
    assert "simulated on h800" in page.text


def test_peaks_and_their_probes(tmp_path: Path) -> None:
    peaks = [
        {"policy": "lru", "peak_load_rps": 4.0, "fails_at_rps": 8.0, "num_rates": 2, "mean_ttft_ms": 90.0},
        {"policy": "vllm", "peak_load_rps": None, "fails_at_rps": 4.0, "num_rates": 2},
    ]
    probes = [
        {"policy": policy, "request_rate": rate, "saturated_seeds": 0, "mean_ttft_ms": rate * factor}
        for policy, factor in (("lru", 20.0), ("vllm", 200.0))
        for rate in (4.0, 8.0)
    ]
    details = {
        "settings": {"workload": "chatbot", "trace": None, "device": "sim:h800", "repeats": 3},
        "rule": {"objectives": {"ttft": 500.0, "tpot": None}, "tolerance": 0.05},
    }
    write_study(tmp_path, {"peak.csv": peaks, "probes.csv": probes}, study_meta("peak", False, details))
    page = Parsed(render_study(load_study(tmp_path)))
    assert page.tables["Peak load by policy"][1:] == [
        ["lru", "4.00", "8.00", "90.0", "2"],
        ["vllm", "–", "4.00", "–", "2"],
    ]
    (curves,) = page.chart_labels
    assert curves.endswith("lru: 80.0 ms at 4, 160 ms at 8; vllm: 800 ms at 4, 1,600 ms at 8")
    assert "below 500 ms: the upper end of the 95 % interval over 3 seeds" in page.text


def test_studies_and_runs_are_not_taken_for_one_another(tmp_path: Path) -> None:
    save_sweep(tmp_path / "sweep")
    save(tmp_path / "run", some_runs(1))
    assert is_study(tmp_path / "sweep")
    assert not is_study(tmp_path / "run")
    with pytest.raises(LibraError, match="name a run of libra"):
        load_run(tmp_path / "sweep")
    with pytest.raises(LibraError, match="is no study of libra"):
        load_study(tmp_path / "run")
