"""README.md says what the committed rows say, and its plot draws them."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.readme import BEGIN, END, OWN, PAPER, PLOT, ROOT, TIGHT, left_out, peak_lines, texts, ttft_lines
from bench.readme_plot import LIGHT, Line, Point, plot_svg
from bench.reproduce.gain import Gain
from bench.reproduce.output import check_reproduction, write_reproduction
from bench.reproduce.rows import FigureRow
from bench.reproduce.run import Outcome, plan_cells
from bench.reproduce.store import CELLS_CSV
from libra.errors import LibraError
from tests.bench.reproduce.fabricate import TINY, fabricated, tiny_study

pytestmark = pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="this is no checkout: results/ is not there")


def test_the_committed_files_say_what_the_rows_do() -> None:
    for path, text in texts().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.relative_to(ROOT)}: run python -m bench.readme"


def test_the_readme_shows_the_plot_and_the_table() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = text[text.index(BEGIN) : text.index(END)]
    assert f'src="{PLOT}"' in part
    assert "| TTFT, fastlibra vs vllm |" in part
    assert "| -45.7 % |" in part


def test_without_its_marks_a_readme_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "reproduce").symlink_to(ROOT / "results" / "reproduce")
    (tmp_path / "README.md").write_text("# libra\n", encoding="utf-8")
    with pytest.raises(LibraError, match="put the two lines back"):
        texts(tmp_path)


def test_our_own_study_stands_below_the_paper(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / PAPER).symlink_to(ROOT / PAPER)
    for name in ("README.md", "results/LOG.md"):
        (tmp_path / name).write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    study = replace(tiny_study(tmp_path / OWN / CELLS_CSV), scale=replace(TINY, name="gain"))
    for _ in range(2):
        for cell in plan_cells(study, [Gain()]):
            if cell not in study.store:
                study.store.add(fabricated(cell))
    write_reproduction(tmp_path / OWN, study, [Gain()], Outcome(Gain().rows(study), 1, 1, False))
    made = texts(tmp_path)
    assert "| TTFT, libra vs fastlibra, whole grid | -10.0 % | -10.0 to -10.0 |  |" in made[tmp_path / "README.md"]
    assert made[tmp_path / OWN / "README.md"].startswith("# libra against fastlibra: gain")
    assert check_reproduction(tmp_path / OWN) > 0


def row(case: str, metric: str, unit: str, ours: float, low: float, high: float, paper: float | None) -> FigureRow:
    return FigureRow("n", case, metric, unit, ours, low, high, paper)


ROWS = {
    (found.case, found.metric): found
    for found in (
        row("all cases", "TTFT, fastlibra vs vllm", "%", -50.0, -60.0, -20.0, -45.7),
        row("all cases", "peak load, fastlibra vs slora", "%", 100.0, 25.0, 300.0, 49.9),
        row("all scenarios", "TTFT, wos vs fastlibra", "x", 1.1, 1.0, 1.2, 1.42),
        row(TIGHT, "TTFT, wos vs fastlibra", "x", 1.3, 1.2, 1.4, 1.42),
        row("chatbot llama3-8b 50", "peak load, wos vs fastlibra", "%", -10.0, -12.0, -8.0, -18.6),
    )
}


def test_every_mark_is_a_ratio_to_fastlibra() -> None:
    vllm, wos = ttft_lines(ROWS)
    assert vllm == Line("vllm", Point(2.0, 1.25, 2.5), None, pytest.approx(1 / 0.543))
    assert wos == Line("wos", Point(1.1, 1.0, 1.2), Point(1.3, 1.2, 1.4), 1.42)
    slora, fewer = peak_lines(ROWS)
    assert slora == Line("slora", Point(0.5, 0.25, 0.8), None, pytest.approx(1 / 1.499))
    assert fewer == Line("wos", Point(0.9, 0.88, 0.92), None, pytest.approx(0.814))


def test_the_caption_tells_the_settings_in_which_a_policy_saturates() -> None:
    assert left_out(ROWS) == ""
    metric = "TTFT, fastlibra vs slora (SATURATED)"
    saturated = FigureRow("11", "all cases", metric, "%", -98.8, note="3 of 27 settings; ms for fastlibra and slora")
    assert left_out(ROWS | {("all cases", metric): saturated}) == " (without 3 of 27 settings with slora, SATURATED)"


def test_the_plot_has_a_mark_for_every_figure_and_is_the_same_every_time() -> None:
    lines = ttft_lines(ROWS)
    text = plot_svg(lines, peak_lines(ROWS), LIGHT)
    assert text == plot_svg(lines, peak_lines(ROWS), LIGHT)
    # Circles for 2 + 2 of ours, one square in tight memory, four diamonds of the paper; and the legend's.
    assert (text.count("<circle"), text.count("<rect"), text.count("<polygon")) == (4 + 1, 1 + 1, 4 + 1)
