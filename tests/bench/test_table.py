"""The comparison table: its text, what it marks, how it fits, and what it never claims."""

import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from bench.adapter_table import adapter_table
from bench.metrics import PolicySummary, summarise
from bench.table import comparison_table, order_by_ttft, print_comparison, summary_line
from libra.errors import LibraError
from tests.bench.fabricate import CONDITIONS, POLICIES, hand_made_summaries, hand_made_summary, plausible_run, record
from tests.bench.fabricate import result as run_result
from tests.bench.golden import WIDTHS, comparison_text, golden_path, render


@pytest.mark.parametrize("width", WIDTHS)
def test_table_reads_as_the_golden_text(width: int) -> None:
    assert comparison_text(width) == golden_path(width).read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [60, 72, 80, 100, 120, 160, 200])
@pytest.mark.parametrize("seeds", [1, 5])
def test_table_fits_and_shows_every_policy(width: int, seeds: int) -> None:
    text = render(comparison_table(hand_made_summaries(seeds), CONDITIONS, width=width), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for policy in ("fastlibra", "lru", "slora"):
        assert policy in text
    for figure in ("180", "207", "13,500"):
        assert figure in text, "the mean TTFT of every policy is there at every width"


def row(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(label))


def test_policies_stand_in_order_of_mean_ttft() -> None:
    names = [summary.policy for summary in order_by_ttft(hand_made_summaries())]
    assert names == ["fastlibra", "lru", "order-only", "vllm-offload", "vllm", "slora"]


def test_policy_that_finished_nothing_comes_last() -> None:
    nothing = dataclasses.replace(hand_made_summary("aaa", 1.0), metrics={})
    assert order_by_ttft([nothing, *hand_made_summaries()])[-1] is nothing
    text = render(comparison_table([nothing, *hand_made_summaries()], CONDITIONS, width=120), 120)
    assert row(text, "TTFT mean").endswith("–")


def test_best_of_each_row_is_marked_with_and_without_colour() -> None:
    text = comparison_text(120)
    assert row(text, "TTFT mean").count("▸") == 1
    assert "▸180" in row(text, "TTFT mean")
    assert "▸90.0" in row(text, "adapter hits"), "more is better here"
    coloured = render(comparison_table(hand_made_summaries(), CONDITIONS, width=120), 120, color=True)
    assert re.search(r"\x1b\[1;32m *▸180", coloured)


def test_what_most_policies_reach_is_not_marked() -> None:
    assert "▸" not in row(comparison_text(120), "invalid KV")
    assert "▸" not in row(comparison_text(120), "requests")


def test_a_saturated_policy_is_the_best_of_nothing_beside_a_stable_one() -> None:
    saturated = hand_made_summary("quick", 0.5, saturated=5)
    stable = [hand_made_summary("even", 1.0), hand_made_summary("slow", 2.0)]
    text = render(comparison_table([saturated, *stable], CONDITIONS, width=120), 120)
    assert "▸180" in row(text, "TTFT mean")
    assert text.count("▸180") == 1
    assert "▸" not in row(text, "requests"), "all are alike"
    assert "▸ best of the row among stable policies" in text
    alone = render(comparison_table([saturated, hand_made_summary("b", 1.0, saturated=1)], CONDITIONS, width=120), 120)
    assert "▸90.0" in row(alone, "TTFT mean")
    assert "▸ best of the row ·" in alone


def test_ratio_row_divides_by_the_baseline_or_the_best() -> None:
    assert row(comparison_text(120), "vs vllm").split()[2] == "0.50x"
    text = render(comparison_table(hand_made_summaries(), CONDITIONS, width=200), 200)
    assert row(text, "vs best").split()[2:5] == ["1.00x", "1.15x", "1.20x"]


def test_ratio_of_stable_to_saturated_carries_the_word() -> None:
    text = render(comparison_table(hand_made_summaries(), CONDITIONS, width=200), 200)
    line = row(text, "vs best")
    assert "75.0x SATURATED" in line
    assert "2.00x SATURATED" in line
    assert line.count("SATURATED") == 2
    assert "SATURATED 2/5 seeds" in row(text, "state")
    assert "SATURATED: vllm, slora" in text


def test_no_ratio_of_equals_is_branded() -> None:
    both = [hand_made_summary("a", 1.0, saturated=5), hand_made_summary("b", 2.0, saturated=5)]
    text = render(comparison_table(both, CONDITIONS, width=120), 120)
    assert row(text, "vs best").split()[-2:] == ["1.00x", "2.00x"]


def test_caption_states_what_the_figures_depend_on() -> None:
    text = comparison_text(200)
    for fact in (
        "simulated on h800 (datasheet rates)",
        "chatbot on llama3-8b, 50 adapters",
        "cache 20 GiB = 0.42 of the working set (48 GiB)",
        "host tier 256 GiB",
        "5 req/s for 60 s",
        "over 5 seeds",
    ):
        assert fact in text


def test_one_seed_says_so_and_prints_no_interval() -> None:
    text = render(comparison_table(hand_made_summaries(1), CONDITIONS, width=120), 120)
    assert "1 seed: no interval" in text
    assert "±" not in text


def test_narrow_table_keeps_the_intervals_of_the_headline_figures() -> None:
    assert row(comparison_text(80), "95 % interval").split()[-6:] == ["±9", "±10", "±11", "±15", "±18", "±675"]


def test_partial_run_says_so() -> None:
    assert "PARTIAL" not in comparison_text(120)
    assert "PARTIAL" in render(comparison_table(hand_made_summaries(), CONDITIONS, width=80, partial=True), 80)
    cut = dataclasses.replace(hand_made_summary("lru", 1.0), complete=False)
    assert "PARTIAL" in render(comparison_table([cut], CONDITIONS, width=80), 80)


def test_unknown_baseline_suggests_the_nearest() -> None:
    with pytest.raises(LibraError, match="did you mean 'vllm'"):
        comparison_table(hand_made_summaries(), CONDITIONS, width=80, baseline="vlm")


def test_run_interrupted_before_its_baseline_is_held_against_the_best() -> None:
    table = comparison_table(hand_made_summaries()[3:], CONDITIONS, width=120, baseline="vllm", partial=True)
    assert row(render(table, 120), "vs best").split()[2] == "1.00x"


def test_console_without_utf8_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_comparison(Console(file=stream, width=80, _environ={}), hand_made_summaries(), CONDITIONS)
    stream.flush()
    assert "*180" in raw.getvalue().decode("ascii")


def test_summary_line_is_one_json_object_on_one_line() -> None:
    line = summary_line(hand_made_summaries(), CONDITIONS, baseline="vllm")
    assert "\n" not in line
    document = json.loads(line)
    assert document["best"] == "fastlibra"
    assert document["policies"]["fastlibra"]["ttft_ratio"] == pytest.approx(0.5)
    assert document["policies"]["slora"]["saturated"] is True
    assert document["policies"]["slora"]["ttft_ratio_caveat"] is None
    assert document["policies"]["fastlibra"]["ttft_ratio_caveat"] == "SATURATED"
    assert next(iter(document["policies"])) == "fastlibra"


def test_summary_line_of_nothing_finished_holds_null() -> None:
    empty = summarise([run_result([record(status="rejected", first_token_s=None, finish_s=None)])])
    policies = json.loads(summary_line([empty], CONDITIONS, partial=True))["policies"]
    assert policies["fastlibra"]["mean_ttft_ms"] is None
    assert policies["fastlibra"]["ttft_ratio"] is None


def fabricated() -> PolicySummary:
    return summarise([plausible_run(POLICIES[0], seed) for seed in range(2)])


def test_adapter_table_lists_the_worst_first() -> None:
    summary = fabricated()
    table = adapter_table(summary)
    assert table is not None
    text = render(table, 80)
    assert max(map(len, text.splitlines())) <= 80
    names = [line.split()[0] for line in text.splitlines()[4:]]
    ttft = [summary.per_adapter[name]["mean_ttft_ms"].mean for name in names]
    assert names[0] == summary.worst_adapter
    assert len(names) == 5
    assert ttft == sorted(ttft, reverse=True)  # type: ignore[type-var]


def test_adapter_table_needs_two_adapters() -> None:
    assert adapter_table(summarise([run_result([record()])])) is None
