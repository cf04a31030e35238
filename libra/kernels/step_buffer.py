"""A step's indices on their way to the device: laid out side by side, moved in one copy."""

import math
from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt
import torch

Int32s = npt.NDArray[np.int32]

_ALIGNMENT = 4  # of each array, in int32: 16 bytes


class StepBuffer:
    """Memory on host and device that every step reuses. It grows when a step needs more.

    Steps must run on one stream, so that a step's kernels are done with the device's half before the next copy.
    """

    def __init__(self, device: torch.device, capacity: int = 1 << 14) -> None:
        """``capacity`` in int32."""
        self._device = device
        self._copied: torch.cuda.Event | None = None
        self._allocate(capacity)

    @staticmethod
    def space(lengths: Items[int], row_shapes: Items[tuple[int, ...]]) -> int:
        """The capacity that arrays of so many rows of these shapes take together."""
        sizes = (count * math.prod(shape) for count, shape in zip(lengths, row_shapes, strict=True))
        return sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)

    def _allocate(self, capacity: int) -> None:
        on_gpu = self._device.type == "cuda"
        self._host = torch.zeros(capacity, dtype=torch.int32, pin_memory=on_gpu)
        self._staging: Int32s = self._host.numpy()
        self._on_device = torch.zeros(capacity, dtype=torch.int32, device=self._device)

    def put(self, arrays: Items[Int32s], lengths: Items[int] | None = None) -> list[torch.Tensor]:
        """The arrays on the device, valid until the next call. No host sync but for a copy still under way.

        With ``lengths`` each is padded with zeros to that many rows, so that its place and shape do not depend on what
        it holds: what a captured graph needs. Raises ValueError for an array longer than its length.
        """
        rows = [len(array) for array in arrays] if lengths is None else list(lengths)
        shapes = [(count, *array.shape[1:]) for count, array in zip(rows, arrays, strict=True)]
        sizes = [int(np.prod(shape)) for shape in shapes]
        starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
        if self._copied is not None:
            self._copied.synchronize()
        if starts[-1] > len(self._host):
            self._allocate(2 * starts[-1])
        for array, count, start, size in zip(arrays, rows, starts, sizes, strict=False):
            if len(array) > count:
                raise ValueError(f"{len(array)} rows where {count} are reserved")
            self._staging[start : start + array.size] = array.reshape(-1)
            self._staging[start + array.size : start + size] = 0
        self._on_device[: starts[-1]].copy_(self._host[: starts[-1]], non_blocking=True)
        if self._device.type == "cuda":
            self._copied = torch.cuda.current_stream(self._device).record_event()
        return [
            self._on_device[start : start + size].view(shape)
            for start, size, shape in zip(starts, sizes, shapes, strict=False)
        ]
