"""An NVIDIA GPU behind the seam of libra.engine.device: pinned memory, streams, events and graphs.

A step ends with the host waiting for its tokens (libra.engine.device_executor), and a transfer is reported when the
host has waited for its last byte. So whatever the engine submits finds its blocks written, whatever it computes on
finds its blocks in place, and no stream has to wait for another. Tensors need no ``record_stream``: arenas live as long
as the engine, and everything else stays on the stream it was made on.
"""

import gc
from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch

from libra.engine.build import ACTIVATION_RESERVE_BYTES, HBM_UTILIZATION
from libra.engine.device import Device, Graph, Lane, Mark, Recorder
from libra.errors import LibraError
from libra.spec import GIB, ModelSpec


class CudaDevice(Device):
    """The current CUDA device of this process."""

    type = "cuda"

    def __init__(self) -> None:
        """Raises LibraError where torch finds no CUDA device."""
        if not torch.cuda.is_available():
            why = "torch finds no CUDA device" if torch.version.cuda else "this torch is a CPU build"
            raise LibraError(f"--device cuda: {why}; run it on a machine with a GPU and torch for CUDA, or use cpu")
        self.place = torch.device("cuda", torch.cuda.current_device())

    def check_use(self, dtype: str, model: ModelSpec) -> None:
        major, minor = torch.cuda.get_device_capability(self.place)
        if dtype == "bfloat16" and major < 8:
            raise LibraError(f"--dtype bfloat16: {self.name} (compute {major}.{minor}) lacks it; use --dtype float16")
        free = self._free_bytes()
        if model.weight_bytes > free:
            raise LibraError(
                f"{model.name} takes {model.weight_bytes / GIB:.1f} GiB, {self.name} has {free / GIB:.1f} GiB free; "
                "use a smaller --model or a narrower --dtype, or stop what else runs on it"
            )

    def cache_bytes(self, model: ModelSpec) -> float:
        """0.9 of the memory, less what is taken, less a reserve for activations."""
        total = int(torch.cuda.mem_get_info(self.place)[1])
        left = self._free_bytes() - (1 - HBM_UTILIZATION) * total - ACTIVATION_RESERVE_BYTES
        if left <= 0:
            raise LibraError(
                f"{self.name}: beside {model.name} nothing is left of {total / GIB:.1f} GiB for a cache; use a smaller "
                "--model or a narrower --dtype, or give --hbm-cache-gib to go without a reserve"
            )
        return left

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.place)

    def _free_bytes(self) -> int:
        """What nobody holds: neither another process nor this one, torch's cache of freed memory aside."""
        self.tidy()
        return int(torch.cuda.mem_get_info(self.place)[0])

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        try:
            return torch.zeros(shape, dtype=dtype, device=self.place)
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"{self.name} has {self._free_bytes() / GIB:.1f} GiB free") from error

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Pinned. torch takes it in powers of two and keeps it for the next engine of the process."""
        try:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        except RuntimeError as error:
            raise MemoryError(f"the system pins no such memory ({_first_line(error)})") from error

    def upload(self, array: "npt.NDArray[Any]") -> torch.Tensor:
        # torch gives the pinned copy to nobody else before the transfer is done.
        return torch.from_numpy(array).pin_memory().to(self.place, non_blocking=True)

    def lane(self) -> Lane:
        return _CudaLane(self.place)

    def mark(self) -> Mark:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.place))
        return _CudaMark(None, event)

    def recorder(self) -> Recorder:
        return _CudaRecorder(self.place)

    def tidy(self) -> None:
        # Engines refer to themselves in circles, and each holds gigabytes.
        gc.collect()
        torch.cuda.empty_cache()

    def describe(self) -> str:
        return self.name

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError | torch.OutOfMemoryError)


class _CudaMark(Mark):
    def __init__(self, start: torch.cuda.Event | None, end: torch.cuda.Event) -> None:
        self._start = start
        self._end = end

    def wait(self) -> None:
        self._end.synchronize()

    def seconds(self) -> float:
        return 0.0 if self._start is None else self._start.elapsed_time(self._end) / 1e3


class _CudaLane(Lane):
    """A stream. Threads that wait for it sleep: a step's end is what a processor may spin for."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, work: Callable[[], None]) -> Mark:
        start, end = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            start.record(self._stream)
            work()
            end.record(self._stream)
        return _CudaMark(start, end)


class _CudaRecorder(Recorder):
    """One pool, and one stream for warming up and capturing alike, as sharing memory asks for. A pool must not be used
    again once its graphs are gone, so every recorder has its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], None]) -> Graph:
        """Runs ``work`` once before: then kernels are compiled and libraries take their workspaces, which a capture
        cannot. Copy lanes of other threads may go on meanwhile."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return _CudaGraph(graph)


class _CudaGraph(Graph):
    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def replay(self) -> None:
        self._graph.replay()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
