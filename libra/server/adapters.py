"""Which adapters the server knows, and how they come and go while it runs."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from libra.errors import LibraError
from libra.model.adapter import CONFIG_FILE, AdapterSource
from libra.server.adapter_files import NAME_RULE, AdapterReader, is_adapter, is_name, lies_in
from libra.server.engine_client import EngineClient, EngineStopped
from libra.server.errors import ApiError, unknown_model

logger = logging.getLogger("libra.server")

_REMOVAL_POLL_S = 0.02


class AdapterCatalog:
    """Adapters by name. All methods are the event loop's; reading of files happens in worker threads.

    ``paths`` are those in service. Others may be loaded from below ``roots``, and nowhere else. One that was unloaded
    comes back when it is loaded by name and path, not by being asked for. What concerns one name happens in turn; a
    change that has begun ends whether or not its client waits, so that ``paths`` and the engine agree.
    """

    def __init__(
        self, engine: EngineClient, reader: AdapterReader, roots: tuple[Path, ...], paths: dict[str, Path]
    ) -> None:
        self.paths = dict(paths)
        self._engine = engine
        self._reader = reader
        self._roots = tuple(root.resolve() for root in roots)
        self._held = set(paths)  # what the engine has: those in service, and those on their way out
        self._unloaded: set[str] = set()
        self._changes: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def find(self, name: str, base_model: str) -> str:
        """The adapter called ``name``, loaded from a root on demand. Raises ApiError 404 with the nearest name."""
        if name not in self.paths and name not in self._unloaded and is_name(name):
            await self._in_turn(self._bring, name)
        if name not in self.paths:
            raise unknown_model(name, [base_model, *self.paths])
        return name

    async def load(self, name: str, path: str, in_place: bool = False) -> None:
        """Registers the adapter at ``path``. Raises ApiError for a name that is taken and for a path that is not
        allowed, not there, or no adapter of this model.

        ``in_place``: takes the place of an adapter of that name, once its open requests have ended; new ones wait.
        """
        if not is_name(name):
            raise ApiError(400, f"lora_name {name!r}: {NAME_RULE}", "invalid_value", "lora_name")
        await self._in_turn(self._load, name, path, in_place)

    async def unload(self, name: str) -> None:
        """Takes a name out of service at once and returns when its memory is free. Raises ApiError when unknown."""
        if name not in self.paths:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.", "model_not_found", "lora_name")
        del self.paths[name]
        self._unloaded.add(name)
        await self._finish(self._remove(name))

    def _turn(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _in_turn(self, change: Callable[..., Coroutine[Any, Any, None]], name: str, *arguments: object) -> None:
        """Has ``change`` made when it is its turn. Who waits for that may give up, a change that has begun may not."""
        turn = self._turn(name)
        await turn.acquire()
        await self._finish(_then_release(turn, change(name, *arguments)))

    async def _finish(self, change: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_hear)
            raise

    async def _bring(self, name: str) -> None:
        if name in self.paths or name in self._unloaded:
            return
        directory = await asyncio.to_thread(self._look, name)
        if directory is not None:
            await self._register(await self._read(directory, name))

    async def _load(self, name: str, path: str, in_place: bool) -> None:
        if name in self.paths and not in_place:
            message = f"The lora adapter '{name}' has already been loaded; 'load_inplace' replaces it."
            raise ApiError(400, message, "already_loaded", "lora_name")
        directory = await asyncio.to_thread(self._allowed, path)
        source = await self._read(directory, name)  # what is wrong with it is said while nothing is changed yet
        self.paths.pop(name, None)
        await self._clear(name)
        await self._register(source)
        self._unloaded.discard(name)

    async def _read(self, directory: Path, name: str) -> AdapterSource:
        try:
            return await asyncio.to_thread(self._reader.read, directory, name, self._roots)
        except LibraError as error:
            raise ApiError(400, str(error), "invalid_adapter", "lora_path") from None

    async def _register(self, source: AdapterSource) -> None:
        try:
            await self._engine.add_adapter(source)
        except LibraError as error:
            raise ApiError(400, str(error), "invalid_adapter", "lora_path") from None
        self._held.add(source.spec.adapter_id)
        self.paths[source.spec.adapter_id] = source.directory

    async def _remove(self, name: str) -> None:
        async with self._turn(name):
            if name not in self.paths:  # nobody has loaded it again meanwhile
                await self._clear(name)
            # Names come without end; only one that asking would bring back need be remembered.
            if await asyncio.to_thread(self._look, name) is None:
                self._unloaded.discard(name)

    async def _clear(self, name: str) -> None:
        """Removes what the engine has under ``name``, as soon as nothing uses it."""
        if name in self._held:
            while not await self._engine.remove_adapter(name):
                await asyncio.sleep(_REMOVAL_POLL_S)
            self._held.discard(name)

    def _look(self, name: str) -> Path | None:
        """The directory of an adapter that a root has under this name."""
        if not is_name(name):
            return None
        candidates = (root / name for root in self._roots)
        return next((path.resolve() for path in candidates if lies_in(path, self._roots) and is_adapter(path)), None)

    def _allowed(self, path: str) -> Path:
        """``path`` without links. Raises ApiError unless it, and the files in it, lie below a root."""
        if not self._roots:
            raise ApiError(
                400, "No directory is open for adapters; start the server with --lora-dir DIR.", "not_allowed"
            )
        directory = Path(path)
        # What lies outside is not even said to exist.
        if not lies_in(directory, self._roots):
            message = f"lora_path {path!r} is not an adapter below a directory given with --lora-dir."
            raise ApiError(400, message, "not_allowed", "lora_path")
        if not is_adapter(directory):
            raise ApiError(404, f"No adapter found at {path!r}: it has no {CONFIG_FILE}.", "not_found", "lora_path")
        return directory.resolve()


async def _then_release(turn: asyncio.Lock, change: Coroutine[Any, Any, None]) -> None:
    try:
        await change
    finally:
        turn.release()


def _hear(change: "asyncio.Task[None]") -> None:
    """Takes the end of a change whose client has gone: what that would have been told goes unsaid, a fault of the
    server's own into its log."""
    error = None if change.cancelled() else change.exception()
    if error is not None and not isinstance(error, ApiError | EngineStopped):
        logger.error("a change of the adapters failed", exc_info=error)
