"""The page of one run: what stands on it, that figures are those of the files, and odd runs."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.documents import summary_document
from bench.format import compact, with_interval
from bench.metrics import summarise
from bench.output import ROWS, TIMELINE
from bench.report.render import MAX_BYTES, render
from bench.saved_run import SavedRun, load_run
from bench.saved_summary import saved_conditions, saved_summaries
from bench.slo import Objectives
from bench.table import order_by_ttft
from libra.engine.record import RunResult
from libra.errors import LibraError
from tests.bench.fabricate import CONDITIONS, POLICIES, plausible_run, record, result
from tests.bench.report.pages import Parsed, save, some_runs


def parsed(*runs: SavedRun) -> Parsed:
    """The report of the runs, checked for what no page may hold."""
    text = render(runs)
    page = Parsed(text)
    assert len(text.encode()) < MAX_BYTES
    assert not {"script", "link", "img", "iframe", "image", "use"} & page.elements.keys()
    assert not re.findall(r"https?:|url\(|src=|@import", text)
    assert not re.search(r"\b(NaN|nan|inf|Infinity|None)\b", page.text + " ".join(page.chart_labels))
    assert not re.search(r"[ \"](nan|inf)[ \"]", text)
    assert "#fe00" not in text
    assert len(page.chart_labels) == text.count("viewBox=") - text.count('aria-hidden="true"')
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(identifiers)) == len(identifiers)
    return page


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    """Three policies, two seeds, objectives and a warning of the trace."""
    folder = tmp_path_factory.mktemp("usual")
    return save(folder, some_runs(3), warnings=["adapters were drawn"], objectives=Objectives(ttft=400.0, tpot=25.0))


@pytest.fixture(scope="module")
def usual_page(usual: SavedRun) -> Parsed:
    return parsed(usual)


def test_page_has_every_part_in_order(usual_page: Parsed) -> None:
    page = usual_page
    title, *headings = page.sections
    assert title == "chatbot on llama3-8b, 50 adapters"
    assert headings == ["Latency", "Hit rates", "HBM over time", "Adapters", "Origin"]
    assert "simulated on h800 (datasheet rates)" in page.text
    assert "5 req/s for 60 s · cache 20 GiB = 0.42 of the working set (48 GiB)" in page.text
    assert "libra bench --workload chatbot" in page.text
    assert "adapters were drawn" in page.text
    assert "mean ± 95 % Student-t interval over 2 seeds" in page.text
    # TTFT, TPOT, parts; three hit rates; memory of three policies.
    assert len(page.chart_labels) == 9


def test_figures_are_those_of_the_summary(usual: SavedRun, usual_page: Parsed) -> None:
    rows = {row[0]: row[1:] for row in usual_page.tables["Policies compared"]}
    ordered = order_by_ttft(saved_summaries(usual))
    assert rows[""] == [summary.policy for summary in ordered] == ["fastlibra", "vllm-offload", "vllm"]
    for label, metric in (("TTFT mean ms", "mean_ttft_ms"), ("E2E p95 ms", "p95_e2el_ms")):
        figures = [summary.metrics[metric] for summary in ordered]
        assert rows[label] == [with_interval(figure.mean, figure.half_width) for figure in figures]
    document = json.loads((usual.path / "summary.json").read_text())["policies"]["vllm"]
    assert rows["TTFT median ms"][2].startswith(compact(document["median_ttft_ms"]))


def test_best_figures_are_marked(usual_page: Parsed) -> None:
    assert re.search(r'<td class="best">[\d.]+ <small>±[\d.]+</small></td>', usual_page.page)


def test_charts_say_their_figures_in_words(usual: SavedRun, usual_page: Parsed) -> None:
    ttft, _, parts, adapters, *_, memory = usual_page.chart_labels
    best = order_by_ttft(saved_summaries(usual))[0]
    assert ttft.startswith("Cumulative distribution of TTFT. fastlibra: median")
    assert f"p99 {compact(best.mean('p99_ttft_ms'))} ms" in ttft
    assert f"fastlibra: queue {compact(best.mean('mean_queue_ms'))} ms" in parts
    assert f"fastlibra: {compact(100 * (best.mean('adapter_hit_rate') or 0))} ±" in adapters
    assert memory.startswith("HBM by use over time under vllm. adapters 9.62 %, history KV")


def test_saved_summaries_are_the_ones_that_were_written(tmp_path: Path) -> None:
    results = some_runs()
    written = [summarise([item for item in results if item.policy == policy]) for policy in ("fastlibra", "vllm")]
    run = save(tmp_path, results)
    assert summary_document(saved_summaries(run)) == json.loads(json.dumps(summary_document(written)))
    assert saved_conditions(run) == CONDITIONS


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script> & $a_b$'
    records = [record(id=index, adapter=f"{index % 2}{evil}", arrival_s=index / 10) for index in range(4)]
    page = parsed(save(tmp_path, [result(records, policy=evil, caption=evil)], warnings=[evil]))
    assert page.text.count(evil) >= 5
    assert f"0{evil}" in {row[0] for row in page.tables[f"Slowest 2 of 2 adapters under {evil}"]}


def test_partial_run_says_so(tmp_path: Path) -> None:
    results = some_runs()
    results[-1].complete = False
    assert "PARTIAL: the run was interrupted" in parsed(save(tmp_path, results)).text


def test_run_interrupted_before_its_first_result(tmp_path: Path) -> None:
    page = parsed(save(tmp_path, [], partial=True))
    assert "PARTIAL" in page.text
    assert "No policy was run" in page.text
    assert page.chart_labels == []


def test_single_policy_of_one_seed_has_no_marks_and_no_intervals(tmp_path: Path) -> None:
    page = parsed(save(tmp_path, some_runs(1, seeds=(3,))))
    assert "±" not in page.text
    assert "best" not in [value for _, name, value in page.attributes if name == "class"]
    assert "Seed 3:" in page.text


def test_policy_that_finished_nothing_is_shown_and_named(tmp_path: Path) -> None:
    waiting = record(status="unfinished", admitted_s=None, first_token_s=None, finish_s=None, token_times=[])
    idle = result([waiting, replace(waiting, id=1)], policy="idle")
    page = parsed(save(tmp_path, [plausible_run(POLICIES[0], num_requests=30), idle]))
    assert "NO REQUEST FINISHED under idle" in page.text
    assert page.tables["Policies compared"][0] == ["", "fastlibra", "idle"]
    assert "idle" not in page.chart_labels[2]


def test_run_in_which_nothing_finished(tmp_path: Path) -> None:
    waiting = record(status="unfinished", admitted_s=None, first_token_s=None, finish_s=None, token_times=[])
    page = parsed(save(tmp_path, [result([waiting])]))
    assert "NO REQUEST FINISHED" in page.text
    assert "Slowest" not in page.text


def test_saturated_policy_is_named_and_its_bar_cut(tmp_path: Path) -> None:
    runs = [plausible_run(POLICIES[index], num_requests=200) for index in (0, 3)]
    page = parsed(save(tmp_path, runs))
    assert "SATURATED: slora. The queue was still growing" in page.text
    assert "▸ A saturated policy's bar is cut short." in page.text


def test_missing_timeline_is_a_note(tmp_path: Path) -> None:
    run = save(tmp_path, some_runs())
    (tmp_path / TIMELINE).unlink()
    page = parsed(run)
    assert "this run has no timeline.parquet" in page.text
    assert len(page.chart_labels) == 6


@pytest.mark.parametrize("timeline", [{}, {"time_s": [0.0, 5.0], "waiting": [1.0, 2.0]}, {"time_s": [1.0]}])
def test_timeline_that_does_not_tell_is_a_note(tmp_path: Path, timeline: dict[str, list[float]]) -> None:
    run = replace(plausible_run(POLICIES[0], num_requests=20), timeline=timeline)
    assert "does not tell what held the memory" in parsed(save(tmp_path, [run])).text


def test_server_that_told_little_leaves_its_charts_out(tmp_path: Path) -> None:
    """A replay against a server that reveals neither its cache nor where TTFT went."""
    run = save(tmp_path, [replace(plausible_run(POLICIES[0], num_requests=20), timeline={})])
    unknown = ("mean_queue_ms", "mean_prefill_ms", "adapter_hit_rate", "kv_hit_rate", "cold_request_ratio")
    run.summary["policies"]["fastlibra"] |= dict.fromkeys(unknown)
    page = parsed(run)
    assert len(page.chart_labels) == 2
    assert "Hit rates" not in page.text


def test_ten_thousand_requests_of_six_policies_stay_below_a_megabyte(tmp_path: Path) -> None:
    long = plausible_run(replace(POLICIES[0], queue_ms=200.0), num_requests=10_000)
    for item in long.records:
        item.token_times = item.token_times[:3]  # gaps between tokens are on no page
    timeline = {name: values * 90 for name, values in long.timeline.items()}
    timeline["time_s"] = [float(second) for second in range(len(timeline["time_s"]))]
    runs: list[RunResult] = [replace(long, policy=style.policy, timeline=timeline) for style in POLICIES]
    page = parsed(save(tmp_path, runs))
    assert len(page.page) < 300_000
    assert len(page.chart_labels) == 12


def test_gzipped_rows_are_read(tmp_path: Path) -> None:
    page = render([save(tmp_path, some_runs(1))])
    rows = (tmp_path / ROWS).read_bytes()
    (tmp_path / ROWS).unlink()
    (tmp_path / f"{ROWS}.gz").write_bytes(gzip.compress(rows))
    assert render([load_run(tmp_path)]) == page
    (tmp_path / f"{ROWS}.gz").write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(LibraError, match="cannot be unpacked"):
        load_run(tmp_path)
