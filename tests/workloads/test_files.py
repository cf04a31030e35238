"""Files that are written whole or not at all."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from libra.errors import LibraError
from workloads.files import replace_file


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    replace_file(path, ["one\n", "two\n"])
    assert path.read_text() == "one\ntwo\n"

    def broken() -> Iterator[str]:
        yield "three\n"
        raise LibraError("no more")

    with pytest.raises(LibraError, match="no more"):
        replace_file(path, broken())
    assert path.read_text() == "one\ntwo\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    replace_file(link, ["new"])
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    replace_file(pipe, ["through\n"])
    reader.join(timeout=10)
    assert read == ["through\n"]
    assert pipe.is_fifo()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no" / "such", "No such file or directory")):
        with pytest.raises(LibraError, match=f"cannot write .*: {reason}; choose another place"):
            replace_file(path, ["x"])
    assert list(tmp_path.iterdir()) == []
