"""cells.csv: what survives a kill, and what it refuses."""

from pathlib import Path

import pytest

from bench.reproduce.cells import Case, Cell
from bench.reproduce.store import Store
from libra.errors import LibraError
from tests.bench.reproduce.fabricate import fabricated

CELL = Cell("run", Case("chatbot"), "fastlibra", 0, 5.0, 20, 1.0)
OTHER = Cell("run", Case("chatbot"), "vllm", 0, 5.0, 20, 1.0)


def test_figures_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.csv")
    store.add(fabricated(CELL) | {"mean_tpot_ms": None, "commit": "abc"})
    found = Store(store.path).get(CELL)
    assert found is not None
    assert (found["mean_ttft_ms"], found["mean_tpot_ms"], found["saturated"]) == (1.0, None, False)
    assert found["timeline"] == fabricated(CELL)["timeline"]
    assert OTHER not in store
    assert store.get(OTHER) is None


def test_a_row_that_a_kill_cut_short_is_dropped_and_can_be_added_again(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    store = Store(path)
    store.add(fabricated(CELL))
    whole = path.read_text(encoding="utf-8")
    store.add(fabricated(OTHER))
    path.write_text(path.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    resumed = Store(path)
    assert (CELL in resumed, OTHER in resumed) == (True, False)
    assert path.read_text(encoding="utf-8") == whole
    resumed.add(fabricated(OTHER))
    assert OTHER in Store(path)


def test_rows_are_arranged_as_planned(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.csv")
    for cell in (CELL, OTHER):
        store.add(fabricated(cell))
    store.arrange([OTHER])
    keys = [line.split(",")[0] for line in store.path.read_text(encoding="utf-8").splitlines()[1:]]
    assert keys == [OTHER.key, CELL.key]


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("policy,ttft\nlru,1\n", encoding="utf-8")
    with pytest.raises(LibraError, match="other columns"):
        Store(path)


def test_the_key_tells_all_settings_apart() -> None:
    cells = [
        CELL,
        OTHER,
        Cell("probe", CELL.case, "fastlibra", 0, 5.0, 20, 1.0),
        Cell("run", CELL.case, "fastlibra", 1, 5.0, 20, 1.0),
        Cell("run", CELL.case, "fastlibra", 0, 5.1, 20, 1.0),
        Cell("run", CELL.case, "fastlibra", 0, 5.0, 21, 1.0),
        Cell("run", Case("chatbot", cache=None), "fastlibra", 0, 5.0, 20, 1.0),
        Cell("run", Case("chatbot", host_gib=float("inf")), "fastlibra", 0, 5.0, 20, 1.0),
        Cell("run", CELL.case, "tau-1s", 0, 5.0, 20, 1.0),
    ]
    assert len({cell.key for cell in cells}) == len(cells)
    assert Cell("run", Case("chatbot"), "fastlibra", 0, 5.0, 20, 1.0).key == CELL.key
