"""Files behind a path: plain, compressed, in folders and archives, and the hostile ones."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from libra.errors import LibraError
from workloads import sources
from workloads.sources import open_sources

TEXT = "one\ntwo\r\nthree"
PLENTY = 1 << 20


def contents(*paths: Path, max_bytes: int = PLENTY, suffixes: tuple[str, ...] = ()) -> dict[str, list[str]]:
    return {source.path.name: list(source.lines()) for source in open_sources(paths, max_bytes, suffixes)}


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compression_is_recognised_by_content(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "any.name"
    path.write_bytes(pack(b"\xef\xbb\xbf" + TEXT.encode()))
    assert contents(path) == {"any.name": ["one\n", "two\r\n", "three"]}
    assert [source.text() for source in open_sources([path], PLENTY)] == [TEXT]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_archives_are_read_in_order_of_their_names(tmp_path: Path, mode: str) -> None:
    members = {"d/a.csv": b"1\n", "d/b.csv": b"2\n", "LICENSE": b"no\n"}
    expected = {"a.csv": ["1\n"], "b.csv": ["2\n"]}
    assert contents(write_tar(tmp_path / "t.tar", members, mode), suffixes=(".csv",)) == expected
    assert contents(write_zip(tmp_path / "t.zip", members), suffixes=(".csv",)) == expected


def test_folders_are_searched(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.csv.gz").write_bytes(gzip.compress(b"2\n"))
    (tmp_path / "a.csv").write_text("1\n")
    (tmp_path / ".hidden.csv").write_text("3\n")
    (tmp_path / "README").write_text("4\n")
    assert contents(tmp_path, suffixes=(".csv",)) == {"a.csv": ["1\n"], "b.csv.gz": ["2\n"]}
    with pytest.raises(LibraError, match=r"no \.json file below"):
        contents(tmp_path, suffixes=(".json",))


@pytest.mark.parametrize("name", ["../x.csv", "/x.csv", "a/../../x.csv", "C:\\x.csv", "..\\x.csv"])
def test_members_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    for path in (write_tar(tmp_path / "t.tar", {name: b"1\n"}), write_zip(tmp_path / "t.zip", {name: b"1\n"})):
        with pytest.raises(LibraError, match=r"leads out of the archive; refused"):
            contents(path)


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("x.csv")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(LibraError, match=r"'x.csv' is a link or a device"):
        contents(path)


def test_bombs_are_refused_before_they_expand(tmp_path: Path) -> None:
    zeros = b"0" * (8 * PLENTY)
    (tmp_path / "z.gz").write_bytes(gzip.compress(zeros))
    write_zip(tmp_path / "z.zip", {"z.csv": zeros})
    write_tar(tmp_path / "z.tar.gz", {"z.csv": zeros}, "w:gz")
    for name in ("z.gz", "z.zip", "z.tar.gz"):
        with pytest.raises(LibraError, match=r"larger than 0\.00\d+ GiB after decompression; raise --max-input-gib"):
            contents(tmp_path / name)


def test_the_limit_holds_for_all_files_together(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("0123456789\n")
    assert len(contents(*paths, max_bytes=22)) == 2
    with pytest.raises(LibraError, match="larger than"):
        contents(*paths, max_bytes=21)


def test_endless_lines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "long"
    path.write_bytes(b"a\n" + b"0" * (1 << 21))
    with pytest.raises(LibraError, match="row 2: is longer than 1 MiB"):
        contents(path, max_bytes=1 << 30)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_cut_archives_are_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "cut"
    path.write_bytes(pack(bytes(range(256)) * 4000)[:-40])
    with pytest.raises(LibraError, match=r"damaged or cut short|not UTF-8"):
        contents(path)
    path.write_bytes(write_zip(tmp_path / "z.zip", {"a": b"1\n"}).read_bytes()[:-10])
    with pytest.raises(LibraError, match="damaged or cut short"):
        contents(path)


def test_encoding_faults_name_the_row(tmp_path: Path) -> None:
    path = tmp_path / "latin"
    path.write_bytes("a\nb\nné\n".encode("latin-1"))
    with pytest.raises(LibraError, match=r"latin, row 3: is not UTF-8 text"):
        contents(path)
    with pytest.raises(LibraError, match=r"latin, row 3: is not UTF-8 text"):
        [source.text() for source in open_sources([path], PLENTY)]


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(LibraError, match=r"cannot read .*absent: No such file"):
        contents(tmp_path / "absent")
    with pytest.raises(LibraError, match="no input file"):
        contents()
