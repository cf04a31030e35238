"""Transfers by background threads, one per direction, optionally slowed to the bandwidth of a given link."""

import threading
from collections import deque

from libra.clock import Clock
from libra.engine.link import Copier, Direction, Link, Priority, Transfer
from libra.errors import LibraError

# What an unthrottled channel is assumed to move before it has moved anything: memory to memory, or from a local disk.
_FIRST_GUESS_BYTES_PER_S = {Direction.IN: 5e9, Direction.OUT: 5e9, Direction.DISK: 5e8}


class ThreadLink(Link):
    """Real copies: a thread per direction calls ``copier``; demand before prefetch, first come first served within.

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

    def next_completion_s(self) -> float | None:
        return None

    def pending(self) -> bool:
        with self._shared.changed:
            return self._shared.unpolled > 0

    def wait(self, transfer: Transfer) -> None:
        with self._shared.changed:
            self._shared.changed.wait_for(lambda: transfer.finished_s is not None)

    def queue_seconds(self, direction: Direction, num_bytes: int) -> float:
        """From the bytes ahead: those of demand transfers that wait, and of the one under way less what has passed."""
        channel = self._channels[direction]
        with self._shared.changed:
            ahead = sum(transfer.num_bytes for transfer in channel.queues[Priority.DEMAND])
            seconds = (ahead + num_bytes) / channel.bytes_per_s()
            if channel.current is not None and channel.current.started_s is not None:
                ends_s = channel.current.started_s + channel.current.num_bytes / channel.bytes_per_s()
                seconds += max(ends_s - self._clock.now(), 0.0)
            return seconds

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
    """One direction: takes the next transfer, copies it, waits until it may be done, reports it."""

    def __init__(self, direction: Direction, copier: Copier, clock: Clock, gbps: float | None, shared: _Shared) -> None:
        super().__init__(name=f"link {direction.value}", daemon=True)
        self.queues: dict[Priority, deque[Transfer]] = {priority: deque() for priority in Priority}
        self.current: Transfer | None = None
        self._copier = copier
        self._clock = clock
        self._limit = None if gbps is None else gbps * 1e9
        self._shared = shared
        self._copied_bytes, self._copy_seconds = _FIRST_GUESS_BYTES_PER_S[direction] * 1e-3, 1e-3

    def bytes_per_s(self) -> float:
        return self._limit or self._copied_bytes / self._copy_seconds

    def run(self) -> None:
        while (transfer := self._next()) is not None:
            try:
                self._copier.copy(transfer)
            except Exception as error:  # noqa: BLE001 - handed to the engine's thread with the transfer
                transfer.error = _as_fault(transfer, error)
            self._finish(transfer)

    def _next(self) -> Transfer | None:
        """The next transfer, marked as started, once there is one; None when the link is closed."""
        with self._shared.changed:
            self._shared.changed.wait_for(lambda: self._shared.closed or any(self.queues.values()))
            if self._shared.closed:
                return None
            queue = next(self.queues[priority] for priority in Priority if self.queues[priority])
            self.current = queue.popleft()
            self.current.started_s = self._clock.now()
            return self.current

    def _finish(self, transfer: Transfer) -> None:
        """Holds the transfer back until the limit allows it to be done, then hands it to ``poll``."""
        with self._shared.changed:
            assert transfer.started_s is not None
            elapsed = self._clock.now() - transfer.started_s
            if transfer.error is None:
                self._copied_bytes += transfer.num_bytes
                self._copy_seconds += elapsed
            if self._limit is not None and transfer.error is None:
                rest = transfer.num_bytes / self._limit - elapsed
                self._shared.changed.wait_for(lambda: self._shared.closed, timeout=max(rest, 0.0))
            self.current = None
            transfer.finished_s = self._clock.now()
            self._shared.finished.append(transfer)
            self._shared.changed.notify_all()


def _as_fault(transfer: Transfer, error: Exception) -> LibraError:
    if isinstance(error, LibraError):
        return error
    fault = LibraError(f"{transfer.direction.value}: copy of {len(transfer.hbm_blocks)} blocks failed: {error}")
    fault.__cause__ = error
    return fault
