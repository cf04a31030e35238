"""The command's work from cells to README: resuming, and the check against drift."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.reproduce import run as running
from bench.reproduce.cells import Case, Cell
from bench.reproduce.gain import Gain
from bench.reproduce.output import FIGURES_CSV, README, check_reproduction, write_reproduction
from bench.reproduce.registry import FIGURES, choose_figures
from bench.reproduce.rules import GAIN
from bench.reproduce.run import Outcome, reproduce
from bench.reproduce.simulate import run_cell
from bench.reproduce.store import CELLS_CSV, Store
from bench.reproduce.study import Study
from bench.workers import Workers
from libra.errors import LibraError
from tests.bench.reproduce.fabricate import TINY, fabricated, tiny_study


def interrupted_after(count: int) -> Callable[[Cell], dict[str, Any]]:
    left = count

    def run(cell: Cell) -> dict[str, Any]:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return fabricated(cell)

    return run


def reproduced(path: Path) -> Outcome:
    study = tiny_study(path / CELLS_CSV)
    outcome = reproduce(study, FIGURES, Workers(), disable_tqdm=True)
    write_reproduction(path, study, FIGURES, outcome)
    return outcome


def test_an_interrupted_run_goes_on_to_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run_cell", interrupted_after(25))
    first = reproduced(tmp_path / "resumed")
    assert first.partial
    assert "PARTIAL" in (tmp_path / "resumed" / README).read_text(encoding="utf-8")
    monkeypatch.setattr(running, "run_cell", fabricated)
    second = reproduced(tmp_path / "resumed")
    whole = reproduced(tmp_path / "whole")
    assert (second.partial, second.num_run) == (False, whole.num_run - 25)
    for name in (CELLS_CSV, FIGURES_CSV):
        assert (tmp_path / "resumed" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert reproduced(tmp_path / "whole").num_run == 0


def test_the_check_finds_what_the_rows_do_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run_cell", fabricated)
    outcome = reproduced(tmp_path)
    assert check_reproduction(tmp_path) == len(outcome.rows)
    readme = tmp_path / README
    readme.write_text(readme.read_text(encoding="utf-8").replace("-50.0 %", "-55.0 %", 1), encoding="utf-8")
    with pytest.raises(LibraError, match="line"):
        check_reproduction(tmp_path)
    with pytest.raises(LibraError, match="is no reproduction"):
        check_reproduction(tmp_path / "elsewhere")


def test_differences_come_first_in_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run_cell", fabricated)
    study = tiny_study(tmp_path / CELLS_CSV)
    figures = choose_figures(["12", "16"])
    write_reproduction(tmp_path, study, figures, reproduce(study, figures, Workers(), disable_tqdm=True))
    text = (tmp_path / README).read_text(encoding="utf-8")
    assert text.index("## What did not reproduce") < text.index("## Fig. 12")
    # BFS was made to use more HBM than fastlibra, the paper has it at -29.1 %.
    assert "* Fig. 16, all scenarios: HBM used, bfs vs fastlibra +25.0 %" in text
    assert "## Fig. 11" not in text


def test_a_study_of_our_own_states_its_own_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run_cell", fabricated)
    texts = {}
    for scale, figures in ((GAIN, [Gain()]), (TINY, choose_figures(["12"]))):
        out = tmp_path / scale.name
        study = Study(replace(TINY, name=scale.name), Store(out / CELLS_CSV))
        write_reproduction(out, study, figures, reproduce(study, figures, Workers(), disable_tqdm=True))
        texts[scale.name] = (out / README).read_text(encoding="utf-8")
    assert "What the paper leaves open" in texts["tiny"]
    assert "arXiv" in texts["tiny"]
    assert "## Rules\n" in texts["gain"]
    for words in ("leaves open", "arXiv", "| paper |", "same sign"):
        assert words not in texts["gain"]


def test_a_real_run_a_search_and_a_fault() -> None:
    case = Case("translation", num_loras=4)
    result = run_cell(Cell("run", case, "fastlibra", 0, 10.0, 40, 1.0))
    parts = ("queue", "adapter_load", "kv_load", "prefill")
    assert result["mean_ttft_ms"] == pytest.approx(sum(result[f"mean_{part}_ms"] for part in parts))
    assert result["hit_rate"] == pytest.approx((result["adapter_hit_rate"] + result["kv_hit_rate"]) / 2)
    found = run_cell(Cell("peak", case, "slora", 0, 5.0, 30, 1.0, 1.0))
    assert found["peak_load_rps"] < (found["fails_at_rps"] or float("inf"))
    small = run_cell(Cell("run", Case("translation", num_loras=4, cache=0.05), "vllm", 0, 10.0, 40, 1.0))
    assert "share" in small["fault"] or "region" in small["fault"]
    timed = run_cell(Cell("probe", case, "fastlibra", 0, 10.0, 40, 1.0))
    assert timed["match_ms"] > 0
    assert 0 <= timed["on_target_share"] <= 1


COMMITTED = Path(__file__).parents[3] / "results" / "reproduce"


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="results/reproduce is not there")
def test_the_committed_readme_says_what_its_rows_do() -> None:
    assert check_reproduction(COMMITTED) > 0
