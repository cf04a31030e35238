"""The memory of the two tiers, one tensor each, and the copies between them."""

from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt
import torch

from libra.engine.link import Copier, Direction, Transfer
from libra.errors import LibraError
from libra.model.adapter_store import AdapterStore
from libra.spec import ModelSpec

Bytes = npt.NDArray[np.uint8]


class Arenas:
    """Blocks of both tiers: ``hbm`` and ``host``, each a tensor [num_blocks, block_elems] of KV and adapter weights.

    Memory starts as zeros that the system hands out on first touch, so a large host tier costs nothing until used,
    and padding that attention reads behind a mask is never NaN. ``hbm_bytes`` and ``host_bytes`` are the same memory
    as [num_blocks, block_bytes] for plain copies.
    """

    def __init__(
        self, model: ModelSpec, block_tokens: int, hbm_blocks: int, host_blocks: int, dtype: torch.dtype
    ) -> None:
        """Raises LibraError when the system refuses the memory."""
        block_elems = model.block_elems(block_tokens)
        block_bytes = block_elems * dtype.itemsize
        try:
            self.hbm_bytes: Bytes = np.zeros((hbm_blocks, block_bytes), dtype=np.uint8)
            self.host_bytes: Bytes = np.zeros((host_blocks, block_bytes), dtype=np.uint8)
        except MemoryError as error:
            raise LibraError(
                f"{hbm_blocks} + {host_blocks} blocks of {block_bytes} bytes do not fit this machine's memory; "
                "use a smaller cache or host tier"
            ) from error
        self.hbm = torch.from_numpy(self.hbm_bytes.reshape(-1)).view(dtype).view(hbm_blocks, block_elems)
        self.host = torch.from_numpy(self.host_bytes.reshape(-1)).view(dtype).view(host_blocks, block_elems)


class ArenaCopier(Copier):
    """Copies blocks with NumPy, which releases the interpreter lock and, unlike torch, starts no threads of its own
    that would take the cores from the computation."""

    def __init__(self, arenas: Arenas, adapters: AdapterStore) -> None:
        self._arenas = arenas
        self._adapters = adapters

    def copy(self, transfer: Transfer) -> None:
        """Raises LibraError when an adapter cannot be read from disk."""
        hbm, host = self._arenas.hbm_bytes, self._arenas.host_bytes
        if transfer.direction is Direction.DISK:
            self._fill(hbm, transfer.adapter_id, transfer.hbm_blocks)
        elif transfer.direction is Direction.IN:
            _copy_blocks(host, transfer.host_blocks, hbm, transfer.hbm_blocks)
        else:
            _copy_blocks(hbm, transfer.hbm_blocks, host, transfer.host_blocks)

    def fill_host(self, adapter_id: str, host_blocks: Items[int]) -> None:
        """Puts an adapter whose home is host memory there. Raises LibraError when it cannot be read."""
        self._fill(self._arenas.host_bytes, adapter_id, host_blocks)

    def _fill(self, target: Bytes, adapter_id: str | None, blocks: Items[int]) -> None:
        if adapter_id is None:
            raise ValueError("a transfer from disk must name its adapter")
        packed = self._adapters.packed(adapter_id).view(torch.uint8).numpy()
        for block, content in zip(blocks, packed, strict=True):
            target[block] = content


def _copy_blocks(source: Bytes, source_blocks: Items[int], target: Bytes, target_blocks: Items[int]) -> None:
    for source_block, target_block in zip(source_blocks, target_blocks, strict=True):
        target[target_block] = source[source_block]
