"""A link in simulated time: three FIFO channels with bandwidth, latency and two priorities."""

import itertools
from collections import deque
from dataclasses import dataclass, field

from libra.clock import Clock
from libra.engine.link import Arrival, Copier, Direction, Link, Priority, Transfer
from libra.errors import LibraError


@dataclass(frozen=True, slots=True)
class LinkRates:
    """Bandwidth per direction in bytes/s, and the fixed cost of one transfer in seconds."""

    link_bytes_per_s: float
    link_latency_s: float
    disk_bytes_per_s: float
    disk_latency_s: float

    def bytes_per_s(self, direction: Direction) -> float:
        """A load from disk also crosses the link: the slower of the two counts."""
        if direction is Direction.DISK:
            return min(self.disk_bytes_per_s, self.link_bytes_per_s)
        return self.link_bytes_per_s

    def latency_s(self, direction: Direction) -> float:
        return self.disk_latency_s if direction is Direction.DISK else self.link_latency_s


@dataclass(slots=True)
class Channel:
    """One direction. ``busy_until_s`` is when the transfer in service ends."""

    queues: tuple[deque[Transfer], deque[Transfer]] = field(default_factory=lambda: (deque(), deque()))
    in_service: Transfer | None = None
    busy_until_s: float = 0.0


class SimulatedLink(Link):
    """Transfers that take as long as the rates say. With a ``copier``, data moves when a transfer ends."""

    def __init__(self, clock: Clock, rates: LinkRates, copier: Copier | None = None) -> None:
        self._clock = clock
        self._rates = rates
        self._copier = copier
        self._channels = {direction: Channel() for direction in Direction}
        self._load_channels = [self._channels[direction] for direction in Direction if direction is not Direction.OUT]
        self._finished: list[Transfer] = []
        self._num_pending = 0

    def submit(self, transfer: Transfer) -> None:
        now_s = self._clock.now()
        channel = self._channels[transfer.direction]
        self._advance(channel, now_s)
        transfer.submitted_s = now_s
        channel.queues[transfer.priority].append(transfer)
        self._num_pending += 1
        if channel.in_service is None:
            channel.busy_until_s = now_s
            self._advance(channel, now_s)

    def promote(self, transfer: Transfer) -> None:
        if transfer.started_s is not None or transfer.priority is Priority.DEMAND:
            return
        channel = self._channels[transfer.direction]
        self._advance(channel, self._clock.now())
        if transfer.started_s is None:
            channel.queues[Priority.PREFETCH].remove(transfer)
            channel.queues[Priority.DEMAND].append(transfer)
            transfer.priority = Priority.DEMAND

    def poll(self) -> list[Transfer]:
        if not self._num_pending:
            return []
        now_s = self._clock.now()
        for channel in self._channels.values():
            self._advance(channel, now_s)
        if not self._finished:
            return []
        done = sorted(self._finished, key=_finish_time)
        self._finished = []
        self._num_pending -= len(done)
        if self._copier is not None:
            for transfer in done:
                try:
                    self._copier.copy(transfer)
                except LibraError as error:
                    transfer.error = error
        return done

    def next_completion_s(self, saves: bool = True) -> float | None:
        if not self._num_pending:
            return None
        channels = self._channels.values() if saves else self._load_channels
        busy = [channel.busy_until_s for channel in channels if channel.in_service is not None]
        return min(busy, default=None)

    def pending(self) -> bool:
        return self._num_pending > 0

    def wait(self, transfer: Transfer) -> None:
        channel = self._channels[transfer.direction]
        while transfer.finished_s is None:
            self._clock.advance_to(channel.busy_until_s)
            self._advance(channel, self._clock.now())

    def queue_seconds(self, direction: Direction, num_bytes: int) -> float:
        channel, now_s = self._channels[direction], self._clock.now()
        self._advance(channel, now_s)
        in_service = max(0.0, channel.busy_until_s - now_s) if channel.in_service is not None else 0.0
        queued = sum(self._duration(transfer) for transfer in channel.queues[Priority.DEMAND])
        return in_service + queued + self._rates.latency_s(direction) + num_bytes / self._rates.bytes_per_s(direction)

    def bytes_per_s(self, direction: Direction) -> float:
        return self._rates.bytes_per_s(direction)

    def arrival(self, transfer: Transfer) -> Arrival | None:
        """Exact: nobody gets ahead of a demand transfer that is queued."""
        channel = self._channels[transfer.direction]
        self._advance(channel, self._clock.now())
        starts_s = transfer.started_s
        if starts_s is None:
            demand = channel.queues[Priority.DEMAND]
            ahead = itertools.takewhile(lambda other: other is not transfer, demand)
            starts_s = channel.busy_until_s + sum(self._duration(other) for other in ahead)
        latency_s = self._rates.latency_s(transfer.direction)
        return Arrival(starts_s + latency_s, starts_s + self._duration(transfer))

    def _duration(self, transfer: Transfer) -> float:
        direction = transfer.direction
        return self._rates.latency_s(direction) + transfer.num_bytes / self._rates.bytes_per_s(direction)

    def _advance(self, channel: Channel, now_s: float) -> None:
        """Ends and starts transfers of ``channel`` up to ``now_s``. A transfer in service is never interrupted."""
        while channel.busy_until_s <= now_s:
            if channel.in_service is not None:
                channel.in_service.finished_s = channel.busy_until_s
                self._finished.append(channel.in_service)
                channel.in_service = None
            queue = channel.queues[Priority.DEMAND] or channel.queues[Priority.PREFETCH]
            if not queue:
                return
            transfer = channel.in_service = queue.popleft()
            transfer.started_s = channel.busy_until_s
            channel.busy_until_s += self._duration(transfer)


def _finish_time(transfer: Transfer) -> float:
    if transfer.finished_s is None:
        raise RuntimeError("a transfer that has not finished was collected")
    return transfer.finished_s
