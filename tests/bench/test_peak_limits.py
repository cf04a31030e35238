"""What bounds a peak: which searches are planned, a look at a run, and the tables."""

import math
from pathlib import Path
from typing import Any

import pytest

from bench.peak_limits import ENDLESS_CACHE, OUT, README, STRIDE, endless, look, looks, plan, rendered
from bench.peak_limits_table import bound_by, readme_text
from bench.peak_watch import COLUMNS
from bench.readme import ROOT
from bench.reproduce.cells import Case, Cell
from bench.reproduce.store import Store
from bench.reproduce.study import Study
from libra.errors import LibraError
from tests.bench.reproduce.fabricate import PEAKS, TINY, fabricated

LOW, HIGH = (Case("chatbot", cache=cache, host=0.5, load_of="fastlibra") for cache in (0.1, 1.5))
LOOK = dict.fromkeys(COLUMNS, 0.0) | {
    "key": "k",
    "workload": "chatbot",
    "cache": 0.1,
    "host_gib": "0.5 of the working set",
    "policy": "libra",
    "rate": 5.0,
    "mean_ttft_ms": 510.0,
    "mean_queue_ms": 490.0,
    "waiting_saves": 0.5,
    "waiting_hbm": 1.0,
    "waiting_tokens": 0.5,
    "held": 0.9,
    "preemptions_per_s": 0.5,
}


def study_of(path: Path, *cases: Case, **figures: Any) -> Study:
    """A study that knows fastlibra's peaks, whatever ``figures`` say of them."""
    study = Study(TINY, Store(path / "cells.csv"))
    for case in cases:
        study.store.add(fabricated(study.peak_cells(case, "fastlibra")[0]) | figures)
    return study


def test_searches_start_from_the_committed_peak(tmp_path: Path) -> None:
    cells = plan(study_of(tmp_path, LOW, HIGH), [LOW, HIGH])
    assert {(cell.rate, cell.stride) for cell in cells} == {(PEAKS["fastlibra"], STRIDE)}
    own = [(cell.case, cell.policy) for cell in cells if cell.case in (LOW, HIGH)]
    ours = {(case, policy) for case in (LOW, HIGH) for policy in ("fastlibra", "libra")}
    assert set(own) == {*ours, (LOW, "clairvoyant-in-time")}
    # One cache that holds everything for a workload, whatever the size of the cell's own.
    assert [cell.policy for cell in cells if cell.case == endless(HIGH)] == ["fastlibra", "libra"]
    assert len(cells) == len(own) + 2
    assert endless(HIGH) == endless(LOW)
    assert endless(LOW).host_gib == math.inf


def test_a_coarse_search_that_gave_up_is_no_near_start(tmp_path: Path) -> None:
    cells = plan(study_of(tmp_path, LOW, fails_at_rps=None), [LOW])
    assert {cell.stride for cell in cells} == {0}


def test_without_a_committed_peak_there_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(LibraError, match="has no peak of fastlibra"):
        plan(study_of(tmp_path, LOW), [HIGH])


def test_a_look_at_a_run_says_what_it_is_short_of(tmp_path: Path) -> None:
    cell = Cell("peak", Case("translation", num_loras=4), "libra", 0, 5.0, 60, 0.0, 0.1)
    row = look(cell, 60.0)
    assert row["key"] == cell.key
    assert row["rate"] == 60.0
    assert row["mean_ttft_ms"] >= row["mean_queue_ms"] > 0
    assert row["held"] > 0
    store = Store(tmp_path / "cells.csv")
    store.add(fabricated(cell) | {"fails_at_rps": 60.0})
    (again,) = looks(store, [cell], tmp_path / "limits.csv")
    assert again == row


def test_the_cause_is_what_most_wait_for() -> None:
    assert bound_by(LOOK) == "HBM 75%, tokens 25%"
    assert bound_by(LOOK | {"waiting_seats": 6.0}) == "seats 75%, HBM 19%"
    assert bound_by(dict.fromkeys(LOOK, 0.0)) == "–"


def test_the_tables_hold_every_look_and_every_peak() -> None:
    def search(policy: str, cache: float, peak: float) -> dict[str, Any]:
        about = {"workload": "chatbot", "cache": cache, "policy": policy, "peak_load_rps": peak}
        return about | {"host_gib": "unbounded" if cache == ENDLESS_CACHE else "0.5 of the working set"}

    peaks = [search("fastlibra", 0.1, 5.0), search("libra", 0.1, 6.0), search("libra", ENDLESS_CACHE, 50.0)]
    lines = readme_text([LOOK], peaks, ENDLESS_CACHE).splitlines()
    assert any(line.startswith("| chatbot, cache 0.1, host 0.5 | libra | 5.00 | 510 |") for line in lines)
    assert "| cell | fastlibra | libra | libra, endless |" in lines
    assert "| chatbot, cache 0.1, host 0.5 | 5.00 | 6.00 (+20 %) | 50.0 (+900 %) |" in lines
    assert "| mean | – | +20.0 % | +900.0 % |" in lines


@pytest.mark.skipif(not (ROOT / OUT).is_dir(), reason="this is no checkout: results/ is not there")
def test_the_committed_tables_say_what_the_rows_do() -> None:
    assert (ROOT / OUT / README).read_text(encoding="utf-8") == rendered(ROOT / OUT)
