"""The memory of the two tiers, one tensor each, and the copies between them."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from libra.engine.device import CpuDevice, Device
from libra.engine.link import Copier, Direction, Transfer
from libra.errors import LibraError
from libra.model.adapter_weights import AdapterWeights
from libra.spec import GIB, ModelSpec

Bytes = npt.NDArray[np.uint8]

# What a lane is given ahead, so that the next copy begins when one ends. A demand waits for so much at most.
WINDOW_BYTES = 64 << 20
# Of a host tier in memory that is handed out on first touch: what a run of minutes comes to.
_TOUCHED_BLOCKS = 2048


class Arenas:
    """Blocks of both tiers: ``hbm`` and ``host``, each a tensor [num_blocks, block_elems] of KV and adapter weights.

    HBM starts as zeros, so that padding which attention reads behind a mask is never NaN. On a CPU the system hands out
    memory on first touch, so that a large host tier costs nothing until used; for a GPU the host tier is pinned.
    """

    def __init__(
        self,
        model: ModelSpec,
        block_tokens: int,
        hbm_blocks: int,
        host_blocks: int,
        dtype: torch.dtype,
        device: Device | None = None,
    ) -> None:
        """``device`` None is the CPU. Raises LibraError when the memory is not to be had."""
        device = device or CpuDevice()
        block_elems = model.block_elems(block_tokens)
        gib = block_elems * dtype.itemsize / GIB
        try:
            self.hbm = device.zeros((hbm_blocks, block_elems), dtype)
        except MemoryError as error:
            raise LibraError(
                f"an HBM cache of {hbm_blocks} blocks ({hbm_blocks * gib:.2f} GiB) does not fit: {error}; lower "
                "--hbm-cache-gib or --cache-fraction"
            ) from error
        try:
            self.host = device.host((host_blocks, block_elems), dtype)
        except MemoryError as error:
            raise LibraError(
                f"a host cache of {host_blocks} blocks ({host_blocks * gib:.2f} GiB) does not fit: {error}; lower "
                "--host-cache-gib"
            ) from error

    def touch(self) -> None:
        """Writes zeros to HBM and to the host tier's first blocks, on a CPU, before anything is in them.

        The system hands memory out on its first touch, which in a virtual machine can take 30 times as long as a copy,
        on the cores that compute: saves would outlast the steps beside them.
        """
        # With NumPy: torch would start a team of threads in the caller's.
        self.hbm_bytes[:] = 0
        self.host_bytes[:_TOUCHED_BLOCKS] = 0

    @property
    def hbm_bytes(self) -> Bytes:
        """HBM as [num_blocks, block_bytes], on a CPU."""
        return _as_bytes(self.hbm)

    @property
    def host_bytes(self) -> Bytes:
        """The host tier as [num_blocks, block_bytes]."""
        return _as_bytes(self.host)


class TierCopier(Copier):
    """Copies between the arenas of an engine."""

    @abstractmethod
    def fill_host(self, adapter_id: str, host_blocks: Items[int]) -> None:
        """Puts an adapter whose home is host memory there. Raises LibraError when it cannot be read."""


class ArenaCopier(TierCopier):
    """Copies blocks with NumPy, which releases the interpreter lock and, unlike torch, starts no threads of its own
    that would take the cores from the computation."""

    def __init__(self, arenas: Arenas, adapters: AdapterWeights) -> None:
        self._hbm, self._host = arenas.hbm_bytes, arenas.host_bytes
        self._adapters = adapters

    def copy(self, transfer: Transfer) -> None:
        """Raises LibraError when an adapter cannot be read from disk."""
        if transfer.direction is Direction.DISK:
            self._fill(self._hbm, transfer.adapter_id, transfer.hbm_blocks)
        elif transfer.direction is Direction.IN:
            _copy_blocks(self._host, transfer.host_blocks, self._hbm, transfer.hbm_blocks)
        else:
            _copy_blocks(self._hbm, transfer.hbm_blocks, self._host, transfer.host_blocks)

    def fill_host(self, adapter_id: str, host_blocks: Items[int]) -> None:
        self._fill(self._host, adapter_id, host_blocks)

    def _fill(self, target: Bytes, adapter_id: str | None, blocks: Items[int]) -> None:
        with _one_thread():
            packed = _packed(self._adapters, adapter_id).view(torch.uint8).numpy()
        for block, content in zip(blocks, packed, strict=True):
            target[block] = content


class LaneCopier(TierCopier):
    """Copies blocks on the device's own lanes, one for each direction, without waiting for them."""

    window_bytes = WINDOW_BYTES

    def __init__(self, arenas: Arenas, adapters: AdapterWeights, device: Device) -> None:
        self._hbm, self._host = arenas.hbm, arenas.host
        self._adapters = adapters
        self._device = device
        self._lanes = {direction: device.lane() for direction in Direction}

    def copy(self, transfer: Transfer) -> None:
        self.begin(transfer)()

    def begin(self, transfer: Transfer) -> Callable[[], float]:
        """Raises LibraError when an adapter cannot be read from disk."""
        # Held until the copy is done: an adapter from disk is in no arena.
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

        def work() -> None:
            # In the lane too, since an adapter may be made on the device.
            pairs.extend(self._pairs(transfer))
            for source, target in pairs:
                target.copy_(source, non_blocking=True)

        mark = self._lanes[transfer.direction].run(work)

        def wait() -> float:
            mark.wait()
            pairs.clear()
            return mark.seconds()

        return wait

    def fill_host(self, adapter_id: str, host_blocks: Items[int]) -> None:
        for content, block in zip(_packed(self._adapters, adapter_id), host_blocks, strict=True):
            self._host[block].copy_(content, non_blocking=True)
        self._device.mark().wait()

    def _pairs(self, transfer: Transfer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Source and target of each block."""
        hbm = (self._hbm[block] for block in transfer.hbm_blocks)
        if transfer.direction is Direction.DISK:
            return zip(_packed(self._adapters, transfer.adapter_id), hbm, strict=True)
        host = (self._host[block] for block in transfer.host_blocks)
        return zip(host, hbm, strict=True) if transfer.direction is Direction.IN else zip(hbm, host, strict=True)


def _packed(adapters: AdapterWeights, adapter_id: str | None) -> torch.Tensor:
    if adapter_id is None:
        raise ValueError("a transfer from disk must name its adapter")
    return adapters.packed(adapter_id)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch from starting a team of OpenMP threads for this thread. While a second team is alive, OpenMP takes
    the machine for overcommitted: every team, the engine's as well, sleeps at its barriers, and steps take up to twice
    as long."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _as_bytes(tensor: torch.Tensor) -> Bytes:
    view: Bytes = tensor.view(torch.uint8).numpy()
    return view


def _copy_blocks(source: Bytes, source_blocks: Items[int], target: Bytes, target_blocks: Items[int]) -> None:
    for source_block, target_block in zip(source_blocks, target_blocks, strict=True):
        target[target_block] = source[source_block]
