"""Parallel sentences: layouts, directions, and texts that do not fit each other."""

import zipfile
from pathlib import Path

import pytest

from libra.errors import LibraError
from tests.workloads.texts import SLOW
from workloads.registry import FORMATS
from workloads.trace import Trace


def write(folder: Path, **texts: str) -> Path:
    """Files of these names; __ stands for a dot and three for a dash."""
    for name, text in texts.items():
        (folder / name.replace("___", "-").replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def read(*paths: Path) -> Trace:
    return FORMATS["opus"].read(paths, SLOW)


def lengths(trace: Trace) -> dict[str, list[tuple[int, int]]]:
    """(prompt, output) tokens of each directed pair, sorted."""
    found: dict[str, list[tuple[int, int]]] = {}
    for request in trace.requests:
        found.setdefault(str(request.adapter), []).append((request.num_prompt_tokens, request.output_tokens))
    return {pair: sorted(entries) for pair, entries in sorted(found.items())}


BOTH = {"de-en": [(1, 2), (3, 1)], "en-de": [(1, 3), (2, 1)]}


@pytest.mark.parametrize(
    "texts",
    [
        {"c__de___en__de": "abcd\nabcdefghijk\n", "c__de___en__en": "efghi\nx\n"},
        {"train__de": "abcd\nabcdefghijk\n", "train__en": "efghi\nx\n"},
        {"opus__de___en___train__de": "abcd\nabcdefghijk\n", "opus__de___en___train__en": "efghi\nx\n"},
        {"c__de___en__tsv": "abcd\tefghi\nabcdefghijk\tx\n"},
        {"c__tsv": "de\ten\nabcd\tefghi\nabcdefghijk\tx\n"},
        {"c_de__tsv": "abcd\t18\nabcdefghijk\t3\n", "c_en__tsv": "efghi\t18\nx\t3\n"},
    ],
)
def test_layouts(tmp_path: Path, texts: dict[str, str]) -> None:
    assert lengths(read(write(tmp_path, **texts))) == BOTH


def test_an_archive_with_other_files(tmp_path: Path) -> None:
    path = tmp_path / "de-en.txt.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "about")
        archive.writestr("c.de-en.ids", "a\tb\n")
        archive.writestr("c.de-en.de", "abcd\nabcdefghijk\n")
        archive.writestr("c.de-en.en", "efghi\nx\n")
    trace = read(path)
    assert lengths(trace) == BOTH
    assert trace.header.counts == {"skipped_files_of_no_language": 2}


def test_three_languages_make_six_pairs(tmp_path: Path) -> None:
    trace = read(write(tmp_path, c_de__tsv="a\t1\n", c_en__tsv="b\t1\n", c_zh__tsv="c\t1\n"))
    assert set(trace.header.adapters) == {"de-en", "de-zh", "en-de", "en-zh", "zh-de", "zh-en"}
    assert all(request.session != trace.requests[0].session for request in trace.requests[1:])


def test_pairs_with_an_empty_side_are_counted(tmp_path: Path) -> None:
    trace = read(write(tmp_path, c__de="a\n\nb\n", c__en="a\nb\n \n"))
    assert len(trace.requests) == 2
    assert trace.header.counts == {"skipped_pairs_with_an_empty_side": 4}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"c__de": "a\nb\n", "c__en": "a\n"}, "different numbers of lines (de 2, en 1); is one cut short?"),
        ({"c__de": "a\nb\n"}, "there is text in de alone"),
        ({"c__de": "a\nb", "c__en": "a\nb\n"}, "row 2: the file ends inside this row"),
        ({"c__de___en__tsv": "a\tb\nc\n"}, "row 2: has 1 columns for de, en"),
        ({"c__tsv": "de\ten\na\tb\tc\n"}, "row 2: has 3 columns for de, en"),
        ({"c__tsv": "one two\tthree\n"}, "row 1: the columns' languages are unknown"),
        ({"c__de___en__tsv": "a\tb\n", "c__de___en__de": "a\n"}, "there is text in de alone"),
        ({"README": "a\n"}, "no request"),
    ],
)
def test_bad_texts(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(LibraError) as raised:
        read(write(tmp_path, **texts))
    assert message in str(raised.value)


def test_a_text_given_twice(tmp_path: Path) -> None:
    write(tmp_path, c__de="a\n", c__en="a\n")
    with pytest.raises(LibraError, match=r"the de text of .* is given twice"):
        read(tmp_path, tmp_path / "c.de")


def test_bad_encoding(tmp_path: Path) -> None:
    write(tmp_path, c__en="a\nb\n")
    (tmp_path / "c.de").write_bytes(b"a\n\xfc\n")
    with pytest.raises(LibraError, match=r"c\.de, row 2: is not UTF-8 text"):
        read(tmp_path)


def test_archives_that_lead_out(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../c.de", "a\n")
    with pytest.raises(LibraError, match="leads out of the archive"):
        read(path)
