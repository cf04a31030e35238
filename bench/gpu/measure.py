"""Times of a case on a GPU, and the two rates that no case can exceed."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from bench.gpu.case import Case

_WARM_UPS = 3
_REPEATS = 20
_COPY_BYTES = 1 << 32
_MATRIX = 8192


@dataclass(frozen=True)
class Ceilings:
    """Measured on this device: bytes read plus written per second of a large copy, flops per second of a large product
    of random matrices."""

    bytes_per_s: float
    flops_per_s: float

    @staticmethod
    def measure(dtype: torch.dtype, device: torch.device) -> "Ceilings":
        copied = torch.empty(2, _COPY_BYTES, dtype=torch.uint8, device=device).random_()
        copy_s = time_s(lambda: copied[1].copy_(copied[0]))
        a, b = (torch.randn(_MATRIX, _MATRIX, dtype=dtype, device=device) for _ in range(2))
        return Ceilings(2 * _COPY_BYTES / copy_s, 2 * _MATRIX**3 / time_s(lambda: a @ b))

    def floor_s(self, case: Case) -> tuple[float, str]:
        """The least time of one turn, and what bounds it: bytes or flops."""
        moving, computing = case.num_bytes / self.bytes_per_s, case.flops / self.flops_per_s
        return max((moving, "bytes"), (computing, "flops"))


def case_seconds(case: Case) -> float:
    """Median time of a turn. Turns follow one another in a captured graph where they can, so that what is measured is
    the device and not the launches."""

    def turns() -> None:
        for turn in range(case.num_turns):
            case.run(turn)

    case.prepare()
    if not case.capturable:
        return time_s(turns) / case.num_turns
    for _ in range(_WARM_UPS):
        turns()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        turns()
    return time_s(graph.replay) / case.num_turns


def time_s(run: Callable[[], object]) -> float:
    """Median seconds of ``run`` by device events, after warming up."""
    for _ in range(_WARM_UPS):
        run()
    times = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(median(times))
