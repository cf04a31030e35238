"""Times of copies on the real engine's link: between the tiers, and of adapters from disk. Imports torch."""

import os
import random
import tempfile
from functools import partial
from pathlib import Path

from bench.profiling.samples import Job, Samples, job
from libra.clock import WallClock
from libra.engine.arena import ArenaCopier, Arenas, LaneCopier
from libra.engine.device import Device
from libra.engine.link import Direction, Transfer
from libra.engine.thread_link import ThreadLink
from libra.errors import LibraError
from libra.model.adapter_store import AdapterStore
from libra.model.llama import LlamaModel
from libra.model.tiny import TinyAdapters, write_adapters
from libra.spec import TARGET_MODULES

# Blocks of one copy, and the ranks of the adapters that are written to be read back.
COPY_BLOCKS = (1, 2, 4, 8, 16, 32, 64)
DISK_RANKS = (4, 8, 16, 32, 64)
# On a GPU the model is large, and so is every rank of an adapter.
GPU_DISK_RANKS = (1, 2, 4, 8)


class CopyTimer:
    """The engine's own link between two arenas, and the adapters in ``store``, on disk, to read. Files and threads end
    with the block."""

    def __init__(self, network: LlamaModel, block_tokens: int, device: Device | None = None) -> None:
        """Raises LibraError when the temporary directory cannot hold the adapters."""
        model = network.spec
        ranks = DISK_RANKS if device is None else GPU_DISK_RANKS
        adapters = TinyAdapters(count=len(ranks), ranks=ranks, targets=(TARGET_MODULES,))
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="libra-profile-")
            paths = write_adapters(Path(self._folder.name), model, adapters)
        except OSError as error:
            raise LibraError(
                f"{tempfile.gettempdir()}: adapters to measure the disk with cannot be written ({error.strerror}); "
                "free space, or set TMPDIR"
            ) from error
        self.store = AdapterStore(model, block_tokens, network.dtype)
        self._paths = {self.store.add(path).adapter_id: path for path in paths}
        largest = max(spec.num_blocks(model, block_tokens) for spec in self.store.values())
        self._block_bytes = model.block_bytes(block_tokens)
        # Twice what one copy needs, and blocks drawn from it: a processor's caches shall not hold what is copied.
        self._num_blocks = 2 * max(*COPY_BLOCKS, largest)
        self._generator = random.Random(0)
        arenas = Arenas(model, block_tokens, self._num_blocks, self._num_blocks, network.dtype, device)
        # Pages that were never written are all one page, and copying it is too fast.
        arenas.host.fill_(1)
        arenas.hbm.fill_(1)
        copier = ArenaCopier(arenas, self.store) if device is None else LaneCopier(arenas, self.store, device)
        self._link = ThreadLink(copier, WallClock())
        sizes = [count * self._block_bytes for count in COPY_BLOCKS]
        disk = [spec.num_bytes(model) for spec in self.store.values()]
        self.samples = {
            Direction.IN: [Samples(size) for size in sizes],
            Direction.OUT: [Samples(size) for size in sizes],
            Direction.DISK: [Samples(size) for size in disk],
        }
        self._model, self._block_tokens = model, block_tokens

    def __enter__(self) -> "CopyTimer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._link.close()
        self._folder.cleanup()

    def jobs(self) -> list[Job]:
        jobs: list[Job] = []
        for direction in (Direction.IN, Direction.OUT):
            for count, samples in zip(COPY_BLOCKS, self.samples[direction], strict=True):
                jobs.append(job(partial(self._copy_seconds, direction, count), samples))
        for name, samples in zip(self.store, self.samples[Direction.DISK], strict=True):
            jobs.append(job(partial(self._disk_seconds, name), samples))
        return jobs

    def _copy_seconds(self, direction: Direction, num_blocks: int) -> float:
        hbm, host = (self._generator.sample(range(self._num_blocks), num_blocks) for _ in range(2))
        return self._seconds(Transfer(direction, [], hbm, host, num_blocks * self._block_bytes))

    def _disk_seconds(self, adapter_id: str) -> float:
        """A load with the adapter's files dropped from the system's cache, as far as the system lets us."""
        for path in self._paths[adapter_id].iterdir():
            _drop_from_cache(path)
        spec = self.store[adapter_id]
        blocks = list(range(spec.num_blocks(self._model, self._block_tokens)))
        num_bytes = spec.num_bytes(self._model)
        return self._seconds(Transfer(Direction.DISK, [], blocks, [], num_bytes, adapter_id=adapter_id))

    def _seconds(self, transfer: Transfer) -> float:
        self._link.submit(transfer)
        self._link.wait(transfer)
        self._link.poll()
        if transfer.error is not None:
            raise transfer.error
        assert transfer.finished_s is not None
        return transfer.finished_s - transfer.submitted_s


def _drop_from_cache(path: Path) -> None:
    """Asks the system to forget the file's pages, where it has such a call."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
