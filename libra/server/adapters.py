"""Which adapters the server knows, where they may come from, and how they come and go while it runs."""

import asyncio
import re
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from libra.errors import LibraError
from libra.model.adapter import CONFIG_FILE, WEIGHTS_FILE, AdapterSource, read_adapter
from libra.server.engine_client import EngineClient
from libra.server.errors import ApiError, unknown_model
from libra.spec import ModelSpec

# A name is one path component at most, so it can be looked for below a directory.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=:-]{0,254}")
_REMOVAL_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class AdapterReader:
    """Reads adapters of ``model`` up to ``max_rank``, without their weights."""

    model: ModelSpec
    block_tokens: int
    max_rank: int

    def read(self, directory: Path, name: str) -> AdapterSource:
        """Raises LibraError for what is no adapter of this model, or does not go into blocks of this size."""
        source = read_adapter(directory, self.model, name, self.max_rank)
        source.spec.num_blocks(self.model, self.block_tokens)
        return source


class AdapterCatalog:
    """Adapters by name. All methods are the event loop's; reading of files happens in worker threads.

    ``paths`` are those registered. Others may be loaded from below ``roots``, and nowhere else. One that was unloaded
    comes back when it is loaded by name and path, not by being asked for. What concerns one name happens in turn; a
    change that has begun ends whether or not its client waits.
    """

    def __init__(
        self, engine: EngineClient, reader: AdapterReader, roots: tuple[Path, ...], paths: dict[str, Path]
    ) -> None:
        self.paths = dict(paths)
        self._engine = engine
        self._reader = reader
        self._roots = [root.resolve() for root in roots]
        self._unloaded: set[str] = set()
        self._changes: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def find(self, name: str, base_model: str) -> str:
        """The adapter called ``name``, loaded from a root on demand. Raises ApiError 404 with the nearest name."""
        if name in self.paths:
            return name
        if _NAME.fullmatch(name) and name not in self._unloaded:
            async with self._turn(name):
                path = None if name in self.paths else await asyncio.to_thread(self._look, name)
                if path is not None:
                    await self._register(name, path)
        if name not in self.paths:
            raise unknown_model(name, [base_model, *self.paths])
        return name

    async def load(self, name: str, path: str, in_place: bool = False) -> None:
        """Registers the adapter at ``path``. Raises ApiError for a name that is taken and for a path that is not
        allowed, not there, or no adapter of this model.

        ``in_place``: takes the place of an adapter of that name, once its open requests have ended; new ones wait.
        """
        if not _NAME.fullmatch(name):
            raise ApiError(
                400, f"lora_name {name!r}: use letters, digits and . _ - @ + = :", "invalid_value", "lora_name"
            )
        async with self._turn(name):
            if name in self.paths and not in_place:
                message = f"The lora adapter '{name}' has already been loaded; 'load_inplace' replaces it."
                raise ApiError(400, message, "already_loaded", "lora_name")
            directory = await asyncio.to_thread(self._allowed, path)
            if name not in self.paths:
                await self._register(name, directory)
                self._unloaded.discard(name)
                return
            await self._read(directory, name)  # what is wrong with it is said while nothing is changed yet
        await self._finish(self._replace(name, directory))

    async def unload(self, name: str) -> None:
        """Takes a name out of service at once and returns when its memory is free. Raises ApiError when unknown."""
        if name not in self.paths:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.", "model_not_found", "lora_name")
        del self.paths[name]
        self._unloaded.add(name)
        await self._finish(self._remove(name))

    def _turn(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _finish(self, change: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _replace(self, name: str, directory: Path) -> None:
        async with self._turn(name):
            if self.paths.pop(name, None) is not None:
                await self._await_removal(name)
            await self._register(name, directory)
            self._unloaded.discard(name)

    async def _read(self, directory: Path, name: str) -> AdapterSource:
        try:
            return await asyncio.to_thread(self._reader.read, directory, name)
        except LibraError as error:
            raise ApiError(400, str(error), "invalid_adapter", "lora_path") from None

    async def _register(self, name: str, directory: Path) -> None:
        source = await self._read(directory, name)
        try:
            await self._engine.add_adapter(source)
        except LibraError as error:
            raise ApiError(400, str(error), "invalid_adapter", "lora_path") from None
        self.paths[name] = directory

    async def _remove(self, name: str) -> None:
        async with self._turn(name):
            await self._await_removal(name)
            # Names come without end; only one that asking would bring back need be remembered.
            if await asyncio.to_thread(self._look, name) is None:
                self._unloaded.discard(name)

    async def _await_removal(self, name: str) -> None:
        """Removes an adapter as soon as nothing uses it."""
        while not await self._engine.remove_adapter(name):
            await asyncio.sleep(_REMOVAL_POLL_S)

    def _look(self, name: str) -> Path | None:
        """The directory of an adapter that a root has under this name."""
        if not _NAME.fullmatch(name):
            return None
        candidates = (root / name for root in self._roots)
        return next((path.resolve() for path in candidates if self._is_inside(path) and is_adapter(path)), None)

    def _allowed(self, path: str) -> Path:
        """``path`` without links. Raises ApiError unless it, and the files in it, lie below a root."""
        if not self._roots:
            raise ApiError(
                400, "No directory is open for adapters; start the server with --lora-dir DIR.", "not_allowed"
            )
        directory = Path(path)
        try:
            inside, found = self._is_inside(directory), is_adapter(directory)
        except (OSError, ValueError):  # a name too long, or with a NUL in it
            inside = found = False
        # What lies outside is not even said to exist.
        if not inside:
            message = f"lora_path {path!r} is not an adapter below a directory given with --lora-dir."
            raise ApiError(400, message, "not_allowed", "lora_path")
        if not found:
            raise ApiError(404, f"No adapter found at {path!r}: it has no {CONFIG_FILE}.", "not_found", "lora_path")
        return directory.resolve()

    def _is_inside(self, directory: Path) -> bool:
        """Whether ``directory`` and what would be read of it lie below a root, wherever links lead."""
        read = (directory, directory / CONFIG_FILE, directory / WEIGHTS_FILE)
        return any(all(path.resolve().is_relative_to(root) for path in read) for root in self._roots)


def is_adapter(directory: Path) -> bool:
    return (directory / CONFIG_FILE).is_file()


def read_adapters(
    reader: AdapterReader, named: Mapping[str, Path], roots: tuple[Path, ...]
) -> dict[str, AdapterSource]:
    """The adapters given by name and those found in ``roots``, by name.

    Raises LibraError for one that cannot be read, and for a name that stands for two.
    """
    paths = dict(named)
    for root in roots:
        for directory in sorted(path.parent for path in root.glob(f"*/{CONFIG_FILE}")):
            if not _leads_outside(directory, root):
                paths.setdefault(directory.name, directory)
    for name in paths:
        if not _NAME.fullmatch(name):
            raise LibraError(f"adapter name {name!r}: use letters, digits and . _ - @ + = :")
    return {name: reader.read(directory, name) for name, directory in paths.items()}


def _leads_outside(directory: Path, root: Path) -> bool:
    read = (directory, directory / CONFIG_FILE, directory / WEIGHTS_FILE)
    return not all(path.resolve().is_relative_to(root.resolve()) for path in read)
