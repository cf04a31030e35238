"""The figures on a terminal of 80 columns."""

import pytest
from rich.console import Console

from bench.reproduce.rows import FigureRow
from bench.reproduce.table import figures_table
from tests.bench.reproduce.fabricate import TINY


class Shown:
    """A figure that is only shown."""

    number, title, says = "11", "TTFT against vLLM", "less"
    cases = cells = rows = lambda self, study: []


JUDGED = FigureRow("11", "all cases", "peak load, fastlibra vs slora", "%", 345.6, 226.6, 508.1, 78.9, "yes", "27")
LEVEL = FigureRow("11", "all cases", "queue, vllm", "ms", 63.9, 61.0, 66.8, 42.4)
UNNAMED = FigureRow("11", "agents", "TTFT, libra vs fastlibra (SATURATED)", "%", -20.0, -30.0, -10.0)


def shown(*rows: FigureRow, width: int = 80) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(figures_table(rows, [Shown()], TINY, False, width))
    return capture.get().splitlines()


def test_a_row_is_one_line_under_its_case_with_its_note_below() -> None:
    lines = shown(JUDGED, LEVEL)
    assert lines[3:7] == [
        "all cases",
        "  peak load, fastlibra vs slora  +345.6 %  +226.6 to +508.1  +78.9 %  yes",
        "    27",
        "  queue, vllm [ms]                   63.9      61.0 to 66.8     42.4",
    ]


def test_columns_that_no_row_fills_are_left_out() -> None:
    header = shown(UNNAMED)[2]
    assert header.endswith("95 % interval")
    assert "paper" not in header
    assert "same sign" in shown(JUDGED)[2]


def test_rows_without_a_number_of_the_paper_are_shown_only_where_no_row_has_one() -> None:
    assert not any("SATURATED" in line for line in shown(JUDGED, UNNAMED))
    assert any("SATURATED" in line for line in shown(UNNAMED))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_long_metric_wraps_and_nothing_is_cut(width: int) -> None:
    row = FigureRow(
        "11", "agents", "TTFT, the same, matches count for the deepest node vs fastlibra", "x", 1.5, 1.4, 1.6, 1.5
    )
    lines = shown(row, width=width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert " ".join(line.strip() for line in lines).count("deepest") == 1


def test_the_breakdown_of_a_note_stays_in_the_file() -> None:
    parts = "ms for libra and fastlibra: queue 67.1 and 108, adapter 0.978 and 0.973, KV 0.288 and 0.348"
    row = FigureRow("11", "agents", "TTFT, libra vs fastlibra", "%", -18.6, note=f"47 of 54 settings; {parts}")
    lines = shown(row, FigureRow("11", "chatbot", "TTFT", "%", -1.0, note=parts))
    assert "    47 of 54 settings" in lines
    assert not any("queue" in line for line in lines)
