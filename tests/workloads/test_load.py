"""Any trace file: recognised, converted, or refused."""

from pathlib import Path

import pytest

from libra.errors import LibraError
from tests.workloads.builders import mooncake_row, row, write_mooncake, write_rows
from workloads.load import load_trace


def test_both_formats_are_recognised(tmp_path: Path) -> None:
    assert load_trace(write_rows(tmp_path / "own.jsonl", row(0))).header.name == "tests only"
    converted = load_trace(write_mooncake(tmp_path / "moon.jsonl", mooncake_row(0, [1])), num_loras=7)
    assert converted.header.name == "moon"
    assert len(converted.header.adapters) == 7


def test_own_adapters_cannot_be_drawn_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "own.jsonl", row(0))
    assert load_trace(path, num_loras=1).header.adapters == {"a": None}
    with pytest.raises(LibraError, match=r"--num-loras 50: .* has 1 adapters; leave out --num-loras"):
        load_trace(path, num_loras=50)
    with pytest.raises(LibraError, match="leave out --popularity"):
        load_trace(path, popularity="uniform")


@pytest.mark.parametrize("text", ["", "hello\n", "[1]\n", '{"a": 1}\n'])
def test_unknown_formats(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(LibraError, match=r"x.jsonl, line 1: neither .*mooncake"):
        load_trace(path)
    with pytest.raises(LibraError, match="no file in it begins with a libra header or a first row of a known format"):
        load_trace(tmp_path)


def test_a_licence_beside_the_traces_of_a_folder_does_not_hide_them(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("You may.\n")
    write_mooncake(tmp_path / "moon.jsonl", mooncake_row(0, [1]))
    assert len(load_trace(tmp_path).requests) == 1
