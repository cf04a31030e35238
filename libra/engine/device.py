"""The seam between the real engine and the device it runs on: memory of both tiers, copy lanes, captured work.

Everything above it (arenas, links, executors, captured decode steps) is written once. ``CpuDevice`` does at once what
is asked of it; ``libra.engine.cuda_device`` does it with streams, events and graphs.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from libra.engine.machine import processor_name
from libra.errors import LibraError
from libra.spec import ModelSpec


class Mark(ABC):
    """The end of some work on the device."""

    @abstractmethod
    def wait(self) -> None:
        """Blocks the calling thread until the work is done. Raises RuntimeError when it failed."""

    @abstractmethod
    def seconds(self) -> float:
        """How long the work took on the device; call it after ``wait``."""


class Lane(ABC):
    """An order of copies that goes on beside the computation. One thread at a time uses a lane."""

    @abstractmethod
    def run(self, work: Callable[[], None]) -> Mark:
        """Issues ``work`` behind all that the lane has been given before."""


class Graph(ABC):
    """Captured work."""

    @abstractmethod
    def replay(self) -> None:
        """Issues the work again, on the same memory."""


class Recorder(ABC):
    """Captures pieces of work that are never replayed at the same time and need nothing of each other: they share
    memory for what they compute on the way."""

    @abstractmethod
    def capture(self, work: Callable[[], None]) -> Graph:
        """Runs ``work`` and keeps it. It must read and write memory that stays where it is, take no value from the
        device to the host, and leave nothing behind that it allocates."""


class Device(ABC):
    """``place``: where tensors lie. ``type`` is what ``--device`` calls it."""

    place: torch.device
    type: str

    @abstractmethod
    def check_use(self, dtype: str, model: ModelSpec) -> None:
        """Raises LibraError when the device does not compute in ``dtype``, or cannot hold the weights of ``model``."""

    @abstractmethod
    def cache_bytes(self, model: ModelSpec) -> float:
        """Memory left for blocks once ``model`` is there. Raises LibraError when there is none."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory on the device, zero. Raises MemoryError."""

    @abstractmethod
    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Host memory that the device copies from and to without a detour; holds anything. Raises MemoryError."""

    @abstractmethod
    def upload(self, array: "npt.NDArray[Any]") -> torch.Tensor:
        """A copy of ``array`` on the device, behind the computation issued so far; the host does not wait."""

    @abstractmethod
    def lane(self) -> Lane:
        """A new lane for copies."""

    @abstractmethod
    def mark(self) -> Mark:
        """The end of the computation issued so far by this thread. It knows of no ``seconds``."""

    @abstractmethod
    def recorder(self) -> Recorder:
        """A new recorder."""

    @abstractmethod
    def tidy(self) -> None:
        """Frees what engines that are gone have left."""

    @abstractmethod
    def describe(self) -> str:
        """The device and what of it is used, for captions."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether ``error`` says that the device's memory does not suffice."""
        return isinstance(error, MemoryError)


class CpuDevice(Device):
    """This machine's processor: work is done when it is issued."""

    place = torch.device("cpu")
    type = "cpu"

    def check_use(self, dtype: str, model: ModelSpec) -> None:
        """Whatever torch computes in, it does here; and the system swaps."""

    def cache_bytes(self, model: ModelSpec) -> float:
        raise LibraError("--device cpu has no HBM of its own; give --cache-fraction or --hbm-cache-gib")

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Handed out by the system on first touch, so that memory never used costs nothing."""
        return torch.from_numpy(np.zeros(shape, dtype=f"i{dtype.itemsize}")).view(dtype)

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self.zeros(shape, dtype)

    def upload(self, array: "npt.NDArray[Any]") -> torch.Tensor:
        return torch.from_numpy(array.copy())

    def lane(self) -> Lane:
        return _CpuLane()

    def mark(self) -> Mark:
        return _Done(0.0)

    def recorder(self) -> Recorder:
        return _CpuRecorder()

    def tidy(self) -> None:
        """The interpreter's own collection will do."""

    def describe(self) -> str:
        return f"cpu ({processor_name()}, {torch.get_num_threads()} threads)"


class _Done(Mark):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def wait(self) -> None:
        """There is nothing to wait for."""

    def seconds(self) -> float:
        return self._seconds


class _CpuLane(Lane):
    def run(self, work: Callable[[], None]) -> Mark:
        started_s = time.perf_counter()
        work()
        return _Done(time.perf_counter() - started_s)


class _CpuRecorder(Recorder):
    def capture(self, work: Callable[[], None]) -> Graph:
        work()
        return _Again(work)


class _Again(Graph):
    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def replay(self) -> None:
        self._work()
