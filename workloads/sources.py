"""The files of a published trace as streams of lines: plain or compressed, alone, in folders or in archives.

Compression is recognised by content, archives are read as streams and never unpacked to disk, and all input together is
limited, so that a small file that expands without end is refused. Every fault is one line for the user.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, BinaryIO, cast

from libra.errors import LibraError
from libra.spec import GIB

MAX_LINE_BYTES = 64 << 20
ZIP_MAGIC = b"PK\x03\x04"
TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257
DECOMPRESSORS: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)
DAMAGED = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    tarfile.TarError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Source:
    """One file's content. Read it before asking for the next source: an archive is a stream. ``name`` is for errors.

    ``path`` is absolute, or the place inside an archive.
    """

    name: str
    path: PurePosixPath
    file: "io.BufferedReader[Any]"

    def head(self) -> str:
        """The beginning, as far as it is buffered, which later reads still see. Raises LibraError."""
        with _faults(self.name):
            return self.file.peek(1 << 12).decode(errors="replace")

    def lines(self) -> Iterator[str]:
        """The lines of UTF-8 text, endings included, a byte order mark left out. Raises LibraError, with the row."""
        number = 0
        while raw := self._read_line(number + 1):
            number += 1
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise LibraError(f"{self.name}, row {number}: is not UTF-8 text ({error.reason})") from None

    def text(self) -> str:
        """The whole of it, for formats that are one JSON document. Raises LibraError."""
        with _faults(self.name):
            raw = self.file.read()
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            row = raw.count(b"\n", 0, error.start) + 1
            raise LibraError(f"{self.name}, row {row}: is not UTF-8 text ({error.reason})") from None

    def _read_line(self, number: int) -> bytes:
        with _faults(self.name):
            raw = self.file.readline(MAX_LINE_BYTES + 1)
        if len(raw) > MAX_LINE_BYTES:
            raise LibraError(
                f"{self.name}, row {number}: is longer than {MAX_LINE_BYTES >> 20} MiB; is this a text file?"
            )
        return raw


def open_sources(
    paths: Sequence[Path], max_bytes: int, suffixes: tuple[str, ...] = ()
) -> Generator[Source, None, None]:
    """The text files behind ``paths``, in order; folders and archives are gone through in order of their names.

    Inside folders and archives only names that end in one of ``suffixes`` count, if there are any (a compressed one
    may end in .gz, .bz2 or .xz on top). Raises LibraError for what cannot be read, for a damaged or escaping archive,
    and as soon as more than ``max_bytes`` have been read in all.
    """
    if not paths:
        raise LibraError("no input file; name at least one")
    budget = _Budget(max_bytes)
    for path in paths:
        for file_path in files_below(path, suffixes):
            with _opened(file_path) as file:
                absolute = PurePosixPath(file_path.absolute().as_posix())
                yield from _expanded(str(file_path), absolute, file, budget, suffixes)


@dataclass
class _Budget:
    """Bytes that may be read in all; reading takes from ``left``."""

    limit: int
    left: int = -1

    def __post_init__(self) -> None:
        self.left = self.limit

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise LibraError(
                f"the input is larger than {self.limit / GIB:g} GiB after decompression; raise --max-input-gib "
                "if you trust it"
            )


class _Limited(io.RawIOBase):
    """A binary stream that takes what it reads from a budget."""

    def __init__(self, file: IO[bytes], budget: _Budget) -> None:
        self._file, self._budget = file, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        self._budget.take(len(data))
        buffer[: len(data)] = data
        return len(data)


def files_below(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """``path``, or the files in a folder whose names end in one of ``suffixes``. Raises LibraError for none."""
    if not path.is_dir():
        return [path]
    found = sorted(entry for entry in path.rglob("*") if entry.is_file() and _wanted(entry.name, suffixes))
    if not found:
        raise LibraError(f"no {' or '.join(suffixes) or 'readable'} file below {path}")
    return found


def _wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    bare = name
    for packed in (".gz", ".bz2", ".xz"):
        bare = bare.removesuffix(packed)
    return not PurePosixPath(name).name.startswith(".") and (not suffixes or bare.endswith(suffixes))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise LibraError(f"cannot read {path}: {error.strerror}") from None
    with file:
        yield file


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """Turns what reading a damaged file raises into one line."""
    try:
        yield
    except DAMAGED as error:
        raise LibraError(
            f"{name}: cannot decompress ({error}); the file is damaged or cut short: copy it again"
        ) from None
    except OSError as error:
        raise LibraError(f"cannot read {name}: {error.strerror or error}") from None


def _expanded(
    name: str, path: PurePosixPath, file: BinaryIO, budget: _Budget, suffixes: tuple[str, ...]
) -> Iterator[Source]:
    """The sources in one file: itself, what it decompresses to, or an archive's members."""
    head = _peek(name, file, TAR_MAGIC_AT + len(TAR_MAGIC))
    if head.startswith(ZIP_MAGIC):
        yield from _zip_members(name, file, budget, suffixes)
        return
    stream: IO[bytes] = file
    for magic, decompressed in DECOMPRESSORS:
        if head.startswith(magic):
            stream = decompressed(file)
    limited = io.BufferedReader(_Limited(stream, budget), 1 << 16)
    with _faults(name):
        head = limited.peek(TAR_MAGIC_AT + len(TAR_MAGIC))
    if head[TAR_MAGIC_AT:].startswith(TAR_MAGIC):
        yield from _tar_members(name, limited, suffixes)
    else:
        yield Source(name, path, limited)


def _peek(name: str, file: BinaryIO, count: int) -> bytes:
    with _faults(name):
        head = file.read(count)
        file.seek(0)
    return head


def _zip_members(name: str, file: BinaryIO, budget: _Budget, suffixes: tuple[str, ...]) -> Iterator[Source]:
    with _faults(name):
        archive = zipfile.ZipFile(file)
    with archive:
        for member in sorted(archive.infolist(), key=lambda info: info.filename):
            _check_inside(name, member.filename)
            if member.is_dir() or not _wanted(member.filename, suffixes):
                continue
            if member.flag_bits & 1:
                raise LibraError(f"{name}: {member.filename!r} is encrypted; unpack it first")
            with _faults(name):
                content = archive.open(member)
            stream = io.BufferedReader(_Limited(content, budget), 1 << 16)
            yield Source(f"{name}:{member.filename}", PurePosixPath(member.filename), stream)


def _tar_members(name: str, stream: BinaryIO, suffixes: tuple[str, ...]) -> Iterator[Source]:
    with _faults(name), tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            _check_inside(name, member.name)
            if member.isdir() or not _wanted(member.name, suffixes):
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise LibraError(f"{name}: {member.name!r} is a link or a device, not a file; unpack it with care")
            yield Source(f"{name}:{member.name}", PurePosixPath(member.name), cast("io.BufferedReader[Any]", content))


def _check_inside(archive: str, member: str) -> None:
    """Nothing is ever written, but a path out of the archive is the mark of a hostile one."""
    windows = PureWindowsPath(member)
    if PurePosixPath(member).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise LibraError(f"{archive}: the member {member!r} leads out of the archive; refused")
