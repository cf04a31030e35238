"""What counts as an adapter on disk: its name, where its files may lie, and those that the server starts with."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from libra.errors import LibraError
from libra.model.adapter import CONFIG_FILE, WEIGHTS_FILE, AdapterSource, is_below, read_adapter
from libra.spec import ModelSpec

logger = logging.getLogger("libra.server")

# A name is one path component at most, so it can be looked for below a directory.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=:-]{0,254}")
NAME_RULE = "use letters, digits and . _ - @ + = :"


@dataclass(frozen=True, slots=True)
class AdapterReader:
    """Reads adapters of ``model`` up to ``max_rank``, without their weights."""

    model: ModelSpec
    block_tokens: int
    max_rank: int

    def read(self, directory: Path, name: str, roots: tuple[Path, ...] = ()) -> AdapterSource:
        """Raises LibraError for what is no adapter of this model, or does not go into blocks of this size. ``roots``:
        where its weights must lie whenever they are read."""
        source = read_adapter(directory, self.model, name, self.max_rank, roots)
        source.spec.num_blocks(self.model, self.block_tokens)
        return source


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def is_adapter(directory: Path) -> bool:
    try:
        return (directory / CONFIG_FILE).is_file()
    except OSError:  # a directory that must not be looked into, a name too long
        return False


def lies_in(directory: Path, roots: tuple[Path, ...]) -> bool:
    """Whether ``directory`` and what would be read of it lie below ``roots``, wherever links lead."""
    return all(is_below(path, roots) for path in (directory, directory / CONFIG_FILE, directory / WEIGHTS_FILE))


def read_adapters(
    reader: AdapterReader, named: Mapping[str, Path], roots: tuple[Path, ...]
) -> dict[str, AdapterSource]:
    """The adapters given by name and those found in ``roots``, by name. What is found and cannot be served is left out
    with a warning: it must not keep the others from their clients.

    Raises LibraError for one given by name that cannot be read, and for a name that stands for two directories.
    """
    sources = {}
    for name, directory in named.items():
        _check_name(name)
        sources[name] = reader.read(directory, name)
    open_roots = tuple(root.resolve() for root in roots)
    for directory in _adapters_in(roots):
        try:
            found = _read_found(reader, directory, open_roots)
        except LibraError as error:
            logger.warning("an adapter is left out: %s", error)
            continue
        other = sources.setdefault(directory.name, found)
        if other.directory.resolve() != directory.resolve():
            raise LibraError(
                f"adapter name {directory.name!r} stands for both {other.directory} and {directory}; rename one"
            )
    return sources


def _adapters_in(roots: tuple[Path, ...]) -> Iterator[Path]:
    for root in roots:
        try:
            children = sorted(root.iterdir())
        except OSError as error:
            raise LibraError(f"--lora-dir {root}: {error.strerror}; give a directory that can be read") from error
        for child in children:
            try:
                if (child / CONFIG_FILE).is_file():
                    yield child
            except OSError as error:
                logger.warning("a directory is left out: %s: %s", child, error.strerror)


def _read_found(reader: AdapterReader, directory: Path, roots: tuple[Path, ...]) -> AdapterSource:
    _check_name(directory.name)
    if not lies_in(directory, roots):
        raise LibraError(f"{directory}: a link leads out of the directories given with --lora-dir; put the files there")
    return reader.read(directory, directory.name, roots)


def _check_name(name: str) -> None:
    if not is_name(name):
        raise LibraError(f"adapter name {name!r}: {NAME_RULE}")
