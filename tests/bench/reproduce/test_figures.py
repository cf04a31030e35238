"""Every figure on fabricated cells: what is planned, what comes of it, and what is said where it cannot be."""

import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.reproduce.cells import Case
from bench.reproduce.controls import LADDER, SWITCHES, carriers
from bench.reproduce.gain import CACHES, HOSTS, LOADS, Gain
from bench.reproduce.policies import policy_of, static_share, variants
from bench.reproduce.registry import FIGURES, choose_figures
from bench.reproduce.rows import FigureRow
from bench.reproduce.rules import SCENARIOS, choose_scale, tight
from bench.reproduce.run import plan_cells
from bench.reproduce.study import Study
from libra.cache.fastlibra import FASTLIBRA
from libra.errors import LibraError
from tests.bench.reproduce.fabricate import fabricated, tiny_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """All cells of all figures, fabricated."""
    made = tiny_study(tmp_path / "cells.csv")
    for _ in range(2):
        for cell in plan_cells(made, FIGURES):
            if cell not in made.store:
                made.store.add(fabricated(cell))
    assert all(cell in made.store for cell in plan_cells(made, FIGURES))
    return made


def rows_of(study: Study, number: str) -> dict[tuple[str, str], FigureRow]:
    (figure,) = choose_figures([number])
    return {(row.case, row.metric): row for row in figure.rows(study)}


def test_nothing_but_the_first_search_of_each_peak_comes_before_the_loads(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "cells.csv")
    assert {(cell.kind, cell.seed, cell.rate) for cell in plan_cells(study, FIGURES)} == {("peak", 0, 5.0)}
    assert [row for figure in FIGURES for row in figure.rows(study)] == []


def test_every_figure_has_rows_and_every_row_says_of_which_figure(study: Study) -> None:
    for figure in FIGURES:
        rows = figure.rows(study)
        assert rows, figure.number
        assert {row.figure for row in rows} == {figure.number}
        assert len({(row.case, row.metric) for row in rows}) == len(rows), figure.number


def test_cells_are_shared_between_figures(study: Study) -> None:
    separate = sum(len(plan_cells(study, [figure])) for figure in FIGURES)
    assert len(plan_cells(study, FIGURES)) < separate


def test_the_load_is_a_share_of_vllms_peak_in_the_same_case(study: Study) -> None:
    case = study.scale.grid[0]
    assert study.rate(case, 0.5) == 3.0
    assert {cell.rate for cell in study.run_cells(case, "slora", 0.5)} == {3.0}


def test_changes_and_ratios_are_those_of_paired_runs(study: Study) -> None:
    latency = rows_of(study, "11")[("all cases", "TTFT, fastlibra vs vllm")]
    assert latency.ours == pytest.approx(-50.0)
    assert (latency.low, latency.high) == pytest.approx((-50.0, -50.0))
    assert (latency.paper, latency.same_sign) == (-45.7, "yes")
    assert rows_of(study, "15")[("all scenarios", "TTFT, wos vs fastlibra")].ours == pytest.approx(1.25)


def test_saturated_runs_never_enter_a_ratio_without_the_word(study: Study) -> None:
    rows = rows_of(study, "11")
    stable, saturated = (rows[("all cases", f"TTFT, fastlibra vs slora{word}")] for word in ("", " (SATURATED)"))
    assert "2 of 3 settings" in stable.note
    assert "1 of 3 settings" in saturated.note
    assert (saturated.paper, saturated.same_sign) == (None, "")
    assert ("agents", "TTFT, fastlibra vs slora") not in rows


def test_peaks_have_an_interval_over_seeds_or_cases_and_none_with_one(study: Study) -> None:
    rows = rows_of(study, "11-peak")
    name = "peak load, fastlibra vs vllm"
    overall, of_study, of_grid = (
        rows[(case, name)] for case in ("all cases", "chatbot llama3-8b 50", "translation llama3-8b 50")
    )
    assert (overall.ours, overall.low, overall.same_sign) == (pytest.approx(100.0), pytest.approx(100.0), "yes")
    assert (of_study.ours, of_study.low) == (pytest.approx(100.0), pytest.approx(100.0))
    assert (of_grid.ours, of_grid.low) == (pytest.approx(100.0), None)


def test_further_searches_start_where_the_first_has_ended(study: Study) -> None:
    first, second = study.peak_cells(Case("chatbot"), "vllm")
    assert (first.rate, first.stride, second.seed, second.rate, second.stride) == (5.0, 0, 1, 6.0, 2)


def test_tight_memory_has_loads_of_its_own_and_the_papers_numbers_beside_it(study: Study) -> None:
    case = tight(Case("chatbot"))
    assert study.rate(case, 0.9) == pytest.approx(10.8)
    (search,) = study.reference_cells(case)
    assert (search.case, search.policy) == (case, "fastlibra")
    row = rows_of(study, "15")[("all scenarios, tight memory, 0.9 of fastlibra's own peak", "TTFT, wos vs fastlibra")]
    assert (row.ours, row.paper) == (pytest.approx(1.25), 1.42)


def test_a_policy_that_cannot_run_says_why(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "cells.csv")
    controls = choose_figures(["controls"])
    for _ in range(2):
        for cell in plan_cells(study, controls):
            if cell not in study.store:
                fault = "no room for a slot" if (cell.policy, cell.case.cache) == ("vllm", 0.1) else ""
                study.store.add(fabricated(cell) | {"fault": fault})
    row = next(row for row in controls[0].rows(study) if row.note.startswith("cannot run"))
    assert (row.case, row.ours) == ("chatbot llama3-8b 50: cache 0.1 of the working set", None)


def test_the_ladder_names_what_carries_the_gain(study: Study) -> None:
    (text,) = carriers(list(rows_of(study, "controls").values()))
    assert text.startswith("chatbot llama3-8b 50: loads overlap 0.62x, cost model 0.80x")
    assert text.count("x") >= len(LADDER) - 1


def test_policies_of_the_study_are_known_and_differ_from_fastlibra() -> None:
    names = [name for name, _ in LADDER] + [name for _, group in SWITCHES for name in group]
    for name in names:
        (policy,) = policy_of(name).candidates
        assert policy.name == name
    own = {"name", "summary"}
    whole = {key: value for key, value in FASTLIBRA.settings().items() if key not in own}
    for name, policy in variants().items():
        assert {key: value for key, value in policy.settings().items() if key not in own} != whole, name
    assert policy_of(static_share(0.35)).candidates[0].adapter_share == 0.35


def test_unknown_figures_and_two_scales_are_refused() -> None:
    with pytest.raises(LibraError, match="--figure"):
        choose_figures(["111"])
    with pytest.raises(LibraError, match="one of them"):
        choose_scale(quick=True, full=True)


def gain_study(path: Path, trace: Path) -> tuple[Gain, Study]:
    """Fabricated: libra has 0.9, clairvoyant 0.8 of fastlibra's TTFT, and libra a peak of 15 to 12."""
    figure, made = Gain((trace,)), tiny_study(path)
    for _ in range(2):
        for cell in plan_cells(made, [figure]):
            if cell not in made.store:
                made.store.add(fabricated(cell))
    return figure, made


def test_the_gain_is_over_the_whole_grid_with_its_worst_cell_and_its_share_of_the_gap(tmp_path: Path) -> None:
    figure, made = gain_study(tmp_path / "cells.csv", tmp_path / "recorded.jsonl")
    rows = {(row.case, row.metric): row for row in figure.rows(made)}
    grid = rows[("whole grid", "TTFT, libra vs fastlibra")]
    assert (grid.ours, grid.low) == (pytest.approx(-10.0), pytest.approx(-10.0))
    assert rows[("worst stable cell", "TTFT, libra vs fastlibra")].ours == pytest.approx(-10.0)
    gap = rows[("whole grid", "gap to clairvoyant closed")]
    assert gap.ours == pytest.approx(100 * math.log(0.9) / math.log(0.8))
    timed = rows[("load 0.65", "gap to clairvoyant-in-time closed")]
    assert timed.ours == pytest.approx(100 * math.log(0.9) / math.log(0.75))
    assert ("whole grid", "gap to clairvoyant-in-time closed") not in rows
    assert rows[("whole grid", "peak load, libra vs fastlibra")].ours == pytest.approx(25.0)
    cells = len(SCENARIOS) * len(CACHES) * len(HOSTS) * len(LOADS)
    assert rows[("whole grid", "TTFT at least 20 % lower (stable)")].note == f"of {cells} stable cells"
    assert rows[("whole grid", "TTFT not more than 2 % higher (stable)")].ours == cells
    assert any(case.startswith("recorded, cache 0.3") for case, _ in rows)
    assert len(rows) == len(figure.rows(made))


def test_the_grid_is_compared_at_loads_of_fastlibras_own_peak(tmp_path: Path) -> None:
    figure, made = gain_study(tmp_path / "cells.csv", tmp_path / "recorded.jsonl")
    assert {cell.policy for case in figure.cases(made) for cell in made.reference_cells(case)} == {"fastlibra"}
    assert {made.rate(case, 0.5) for case in figure.cases(made)} == {6.0}


def test_gain_is_a_study_of_its_own(tmp_path: Path) -> None:
    command = CliRunner()
    for flags, words in (
        (["--gain", "--quick"], "study of its own"),
        (["--trace", "x.jsonl"], "give both"),
        (["--gain", "--trace", str(tmp_path / "none")], "is no file"),
    ):
        with pytest.raises(LibraError, match=words):
            command.invoke(app, ["reproduce", *flags, "--out", str(tmp_path)], catch_exceptions=False)
