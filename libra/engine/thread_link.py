"""Transfers by background threads, one per direction, optionally slowed to the bandwidth of a given link."""

import threading
from collections import deque
from collections.abc import Callable

from libra.clock import Clock
from libra.engine.link import Copier, Direction, Link, Priority, Transfer
from libra.errors import LibraError

_Wait = Callable[[], float | None]

# What an unthrottled channel is assumed to move before it has moved anything: memory to memory, or from a local disk.
_FIRST_GUESS_BYTES_PER_S = {Direction.IN: 5e9, Direction.OUT: 5e9, Direction.DISK: 5e8}


class ThreadLink(Link):
    """Real copies: a thread per direction calls ``copier``; demand before prefetch, first come first served within. A
    copier that only begins copies is kept supplied, so that nothing idles between them. The clock rings at every end.

    ``gbps`` is the bandwidth of each direction between host and HBM, and ``disk_gbps`` that from disk, in GB/s (1e9
    bytes a second, not bits): a transfer takes at least bytes / bandwidth, the rest being slept. None does not slow.
    """

    def __init__(self, copier: Copier, clock: Clock, gbps: float | None = None, disk_gbps: float | None = None) -> None:
        """Starts the threads. Raises LibraError when a bandwidth is not positive."""
        for limit in (gbps, disk_gbps):
            if limit is not None and not limit > 0:
                raise LibraError(f"a link of {limit} GB/s moves nothing; use a bandwidth above 0, or none for no limit")
        self._clock = clock
        self._shared = _Shared()
        limits = {Direction.IN: gbps, Direction.OUT: gbps, Direction.DISK: disk_gbps}
        self._channels = {
            direction: _Channel(direction, copier, clock, limit, self._shared) for direction, limit in limits.items()
        }
        for channel in self._channels.values():
            channel.start()

    def submit(self, transfer: Transfer) -> None:
        transfer.submitted_s = self._clock.now()
        with self._shared.changed:
            self._shared.unpolled += 1
            self._channels[transfer.direction].queues[transfer.priority].append(transfer)
            self._shared.changed.notify_all()

    def promote(self, transfer: Transfer) -> None:
        with self._shared.changed:
            queues = self._channels[transfer.direction].queues
            if transfer in queues[Priority.PREFETCH]:
                queues[Priority.PREFETCH].remove(transfer)
                queues[Priority.DEMAND].append(transfer)
                transfer.priority = Priority.DEMAND

    def poll(self) -> list[Transfer]:
        with self._shared.changed:
            finished = list(self._shared.finished)
            self._shared.finished.clear()
            self._shared.unpolled -= len(finished)
            return finished

    def next_completion_s(self, saves: bool = True) -> float | None:
        return None

    def pending(self) -> bool:
        with self._shared.changed:
            return self._shared.unpolled > 0

    def wait(self, transfer: Transfer) -> None:
        with self._shared.changed:
            self._shared.changed.wait_for(lambda: transfer.finished_s is not None)

    def queue_seconds(self, direction: Direction, num_bytes: int) -> float:
        """From the bytes ahead: those of demand transfers that wait, and of those under way less what has passed."""
        channel = self._channels[direction]
        with self._shared.changed:
            ahead = sum(transfer.num_bytes for transfer in channel.queues[Priority.DEMAND])
            return channel.remaining_s(self._clock.now()) + (ahead + num_bytes) / channel.bytes_per_s()

    def bytes_per_s(self, direction: Direction) -> float:
        """The limit given, else the mean of the copies so far."""
        with self._shared.changed:
            return self._channels[direction].bytes_per_s()

    def close(self) -> None:
        """Ends the threads after the copies under way; transfers still queued are dropped."""
        with self._shared.changed:
            self._shared.closed = True
            self._shared.changed.notify_all()
        for channel in self._channels.values():
            channel.join()


class _Shared:
    """What the channels and the engine share. ``changed`` guards it and the queues, and is notified of every change."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.finished: deque[Transfer] = deque()
        self.unpolled = 0
        self.closed = False


class _Channel(threading.Thread):
    """One direction: begins the next transfers as far as the copier's window allows, waits for the oldest until it may
    be done, reports it. A throttled channel has one under way at a time."""

    def __init__(self, direction: Direction, copier: Copier, clock: Clock, gbps: float | None, shared: _Shared) -> None:
        super().__init__(name=f"link {direction.value}", daemon=True)
        self.queues: dict[Priority, deque[Transfer]] = {priority: deque() for priority in Priority}
        self._under_way: deque[tuple[Transfer, _Wait]] = deque()
        self._copier = copier
        self._clock = clock
        self._limit = None if gbps is None else gbps * 1e9
        self._window = copier.window_bytes if gbps is None else 0
        self._shared = shared
        self._copied_bytes, self._copy_seconds = _FIRST_GUESS_BYTES_PER_S[direction] * 1e-3, 1e-3

    def bytes_per_s(self) -> float:
        return self._limit or self._copied_bytes / self._copy_seconds

    def remaining_s(self, now_s: float) -> float:
        """Estimated time until what is under way has ended. Call it with ``changed`` held."""
        if not self._under_way:
            return 0.0
        (oldest, _), rate = self._under_way[0], self.bytes_per_s()
        assert oldest.started_s is not None
        others = sum(transfer.num_bytes for transfer, _ in self._under_way) - oldest.num_bytes
        return max(oldest.started_s + oldest.num_bytes / rate - now_s, 0.0) + others / rate

    def run(self) -> None:
        while True:
            transfer = self._next()
            if transfer is not None:
                self._begin(transfer)
            elif self._under_way:
                self._finish(*self._under_way[0])
            else:
                return

    def _next(self) -> Transfer | None:
        """The transfer to begin now, marked as started. Waits for one while none is under way; None when there is none
        to begin before the oldest has ended, or when the link is closed."""
        with self._shared.changed:
            if not self._under_way:
                self._shared.changed.wait_for(lambda: self._shared.closed or any(self.queues.values()))
            ahead = sum(transfer.num_bytes for transfer, _ in self._under_way)
            is_full = bool(self._under_way) and ahead >= self._window
            if self._shared.closed or is_full or not any(self.queues.values()):
                return None
            queue = next(self.queues[priority] for priority in Priority if self.queues[priority])
            transfer = queue.popleft()
            transfer.started_s = self._clock.now()
            # Under way from here, so that an estimate never misses it.
            self._under_way.append((transfer, _not_begun))
            return transfer

    def _begin(self, transfer: Transfer) -> None:
        wait: _Wait = _not_begun
        try:
            wait = self._copier.begin(transfer)
        except Exception as error:  # noqa: BLE001 - handed to the engine's thread with the transfer
            transfer.error = _as_fault(transfer, error)
        with self._shared.changed:
            self._under_way[-1] = (transfer, wait)

    def _finish(self, transfer: Transfer, wait: "_Wait") -> None:
        """Holds the oldest transfer back until it is there and the limit allows it, then hands it to ``poll``."""
        copy_s = None
        try:
            copy_s = wait()
        except Exception as error:  # noqa: BLE001 - handed to the engine's thread with the transfer
            transfer.error = _as_fault(transfer, error)
        with self._shared.changed:
            assert transfer.started_s is not None
            elapsed = self._clock.now() - transfer.started_s
            if transfer.error is None:
                self._copied_bytes += transfer.num_bytes
                self._copy_seconds += elapsed if copy_s is None else copy_s
            if self._limit is not None and transfer.error is None:
                rest = transfer.num_bytes / self._limit - elapsed
                self._shared.changed.wait_for(lambda: self._shared.closed, timeout=max(rest, 0.0))
            self._under_way.popleft()
            transfer.finished_s = self._clock.now()
            self._shared.finished.append(transfer)
            self._shared.changed.notify_all()
        self._clock.ring()


def _not_begun() -> None:
    """What stands for the wait of a transfer that has not begun, or failed to."""


def _as_fault(transfer: Transfer, error: Exception) -> LibraError:
    if isinstance(error, LibraError):
        return error
    fault = LibraError(f"{transfer.direction.value}: copy of {len(transfer.hbm_blocks)} blocks failed: {error}")
    fault.__cause__ = error
    return fault
