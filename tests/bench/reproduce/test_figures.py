"""Every figure on fabricated cells: what is planned, what comes of it, and what is said where it cannot be."""

from pathlib import Path

import pytest

from bench.reproduce.controls import LADDER, SWITCHES, carriers
from bench.reproduce.policies import policy_of, static_share, variants
from bench.reproduce.registry import FIGURES, choose_figures
from bench.reproduce.rows import FigureRow
from bench.reproduce.rules import choose_scale
from bench.reproduce.run import plan_cells, plan_loads
from bench.reproduce.study import Study
from libra.cache.fastlibra import FASTLIBRA
from libra.errors import LibraError
from tests.bench.reproduce.fabricate import fabricated, tiny_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """All cells of all figures, fabricated."""
    made = tiny_study(tmp_path / "cells.csv")
    for plan in (plan_loads, plan_cells):
        for cell in plan(made, FIGURES):
            if cell not in made.store:
                made.store.add(fabricated(cell))
    return made


def rows_of(study: Study, number: str) -> dict[tuple[str, str], FigureRow]:
    (figure,) = choose_figures([number])
    return {(row.case, row.metric): row for row in figure.rows(study)}


def test_nothing_but_searches_of_vllms_peak_comes_before_the_loads(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "cells.csv")
    assert {(cell.kind, cell.policy) for cell in plan_loads(study, FIGURES)} == {("peak", "vllm")}
    assert {cell.kind for cell in plan_cells(study, FIGURES)} == {"peak"}
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


def test_peaks_of_one_seed_have_no_interval(study: Study) -> None:
    row = rows_of(study, "11-peak")[("all cases", "peak load, fastlibra vs vllm")]
    assert (row.ours, row.low, row.same_sign) == (pytest.approx(100.0), None, "yes")


def test_a_policy_that_cannot_run_says_why(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "cells.csv")
    controls = choose_figures(["controls"])
    for plan in (plan_loads, plan_cells):
        for cell in plan(study, controls):
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
