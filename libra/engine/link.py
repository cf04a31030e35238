"""Transfers between host memory (or disk) and HBM: the contract."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from libra.errors import LibraError


class Direction(Enum):
    """One channel each; they run at the same time."""

    IN = "host to HBM"
    OUT = "HBM to host"
    DISK = "disk to HBM"


class Priority(IntEnum):
    """Within a channel, demand goes before prefetch; FIFO within each."""

    DEMAND = 0
    PREFETCH = 1


@dataclass(slots=True, eq=False)
class Transfer:
    """A copy of whole blocks: ``hbm_blocks[i]`` to or from ``host_blocks[i]``.

    ``nodes`` are the tree nodes the blocks belong to, in the order of the blocks. A DISK transfer has no host blocks:
    it fills ``hbm_blocks`` with the weights of ``adapter_id``. ``num_bytes`` is what crosses the link (an adapter's
    last block is sent only as far as it is filled). The link sets ``started_s`` and ``finished_s``, and ``error`` when
    the copy failed; the cache sets ``collected`` when it has taken note that the blocks are in place.
    """

    direction: Direction
    nodes: list[int]
    hbm_blocks: list[int]
    host_blocks: list[int]
    num_bytes: int
    priority: Priority = Priority.DEMAND
    adapter_id: str | None = None
    submitted_s: float = 0.0
    started_s: float | None = None
    finished_s: float | None = None
    error: LibraError | None = None
    collected: bool = False


class Arrival(NamedTuple):
    """When the first and the last byte of a transfer are in place."""

    first_s: float
    last_s: float


class Link(ABC):
    """Full-duplex transfers. Submission returns at once; data is in place when ``poll`` returns the transfer."""

    @abstractmethod
    def submit(self, transfer: Transfer) -> None:
        """Queues ``transfer``. Its blocks must not be read or written by others until ``poll`` returns it."""

    @abstractmethod
    def promote(self, transfer: Transfer) -> None:
        """Gives a queued prefetch demand priority; no effect once it has started."""

    @abstractmethod
    def poll(self) -> list[Transfer]:
        """Transfers finished by the clock's now, each returned once, in order of completion.

        Those whose copy failed are among them: their blocks hold anything.
        """

    @abstractmethod
    def next_completion_s(self, saves: bool = True) -> float | None:
        """When the next transfer, or without ``saves`` the next load, finishes if that is known in advance
        (simulation), else None."""

    @abstractmethod
    def pending(self) -> bool:
        """Whether any submitted transfer has not been polled yet."""

    @abstractmethod
    def wait(self, transfer: Transfer) -> None:
        """Blocks the caller (advances the clock) until ``transfer`` is finished; ``poll`` still returns it."""

    @abstractmethod
    def queue_seconds(self, direction: Direction, num_bytes: int) -> float:
        """Estimated time until a demand transfer of ``num_bytes`` submitted now would finish."""

    @abstractmethod
    def bytes_per_s(self, direction: Direction) -> float:
        """Bandwidth of one channel."""

    def arrival(self, transfer: Transfer) -> Arrival | None:
        """When a demand transfer into HBM will be there if that is known in advance (simulation), else None."""
        return None

    def close(self) -> None:  # noqa: B027 - only links with threads have something to stop
        """Stops background work. The link must not be used afterwards."""


class Copier(ABC):
    """Moves the data of a transfer between real arenas.

    ``window_bytes``: how much may be begun before what was begun earlier has ended; 0 where copies are not begun but
    done.
    """

    window_bytes = 0

    @abstractmethod
    def copy(self, transfer: Transfer) -> None:
        """Copies the blocks; returns when they are in place. Raises LibraError when the source cannot be read."""

    def begin(self, transfer: Transfer) -> Callable[[], float | None]:
        """Begins to copy the blocks. What it returns waits until they are in place, and gives the seconds that the
        copy itself took, None where nobody knows. Raises as ``copy`` does; so does what it returns."""
        self.copy(transfer)
        return _nobody_knows


def _nobody_knows() -> None:
    """What has been waited for already."""
