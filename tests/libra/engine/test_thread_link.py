"""Background transfers: order, priorities, pace and faults."""

import threading
from collections.abc import Iterator

import pytest

from libra.clock import WallClock
from libra.engine.link import Copier, Direction, Priority, Transfer
from libra.engine.thread_link import ThreadLink
from libra.errors import LibraError


class GatedCopier(Copier):
    """Notes what it copies; each copy waits for the gate, and blocks 13 cannot be copied."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.copied: list[int] = []

    def copy(self, transfer: Transfer) -> None:
        assert self.gate.wait(timeout=10)
        if transfer.hbm_blocks == [13]:
            raise OSError("the disk is gone")
        self.copied.append(transfer.hbm_blocks[0])


@pytest.fixture
def copier() -> GatedCopier:
    return GatedCopier()


@pytest.fixture
def link(copier: GatedCopier) -> Iterator[ThreadLink]:
    link = ThreadLink(copier, WallClock())
    yield link
    copier.gate.set()
    link.close()


def transfer(
    block: int, direction: Direction = Direction.IN, priority: Priority = Priority.DEMAND, num_bytes: int = 1000
) -> Transfer:
    return Transfer(direction, [1], [block], [block], num_bytes, priority)


def test_demand_goes_before_prefetch_and_first_come_first_served(link: ThreadLink, copier: GatedCopier) -> None:
    running = transfer(0)
    link.submit(running)
    while running.started_s is None:
        assert link.pending()
    prefetches = [transfer(block, priority=Priority.PREFETCH) for block in (1, 2, 3)]
    demands = [transfer(block) for block in (4, 5)]
    for item in (*prefetches, *demands):
        link.submit(item)
    link.promote(prefetches[2])
    copier.gate.set()
    link.wait(prefetches[1])
    assert copier.copied == [0, 4, 5, 3, 1, 2]
    polled = link.poll()
    assert [item.hbm_blocks[0] for item in polled] == copier.copied
    assert all(item.finished_s is not None and item.finished_s >= item.submitted_s for item in polled)
    assert not link.pending()
    assert link.poll() == []


def test_directions_do_not_wait_for_each_other(copier: GatedCopier) -> None:
    class HeldIn(Copier):
        def copy(self, transfer: Transfer) -> None:
            if transfer.direction is Direction.IN:
                copier.copy(transfer)

    link = ThreadLink(HeldIn(), WallClock())
    link.submit(transfer(0, Direction.IN))
    for direction in (Direction.OUT, Direction.DISK):
        other = transfer(1, direction)
        link.submit(other)
        link.wait(other)
    assert {item.direction for item in link.poll()} == {Direction.OUT, Direction.DISK}
    assert link.pending()
    copier.gate.set()
    link.close()


def test_a_throttled_transfer_takes_at_least_bytes_over_bandwidth(copier: GatedCopier) -> None:
    copier.gate.set()
    link = ThreadLink(copier, WallClock(), gbps=1.0)
    transfers = [transfer(block, num_bytes=20_000_000) for block in range(3)]
    for item in transfers:
        link.submit(item)
    assert link.bytes_per_s(Direction.IN) == 1e9
    assert 0.05 < link.queue_seconds(Direction.IN, 20_000_000) <= 0.081
    link.wait(transfers[-1])
    for item in transfers:
        assert item.started_s is not None
        assert item.finished_s is not None
        assert item.finished_s - item.started_s >= 0.02
    link.close()


def test_an_unthrottled_link_measures_its_bandwidth(link: ThreadLink, copier: GatedCopier) -> None:
    copier.gate.set()
    before = link.bytes_per_s(Direction.IN)
    item = transfer(0, num_bytes=10**12)
    link.submit(item)
    link.wait(item)
    assert link.bytes_per_s(Direction.IN) > before
    assert link.queue_seconds(Direction.OUT, 5 * 10**9) == pytest.approx(1.0)
    assert link.next_completion_s() is None


def test_a_failed_copy_says_so_and_the_link_goes_on(link: ThreadLink, copier: GatedCopier) -> None:
    copier.gate.set()
    failing, next_one = transfer(13, num_bytes=10**12), transfer(14)
    before = link.bytes_per_s(Direction.IN)
    for item in (failing, next_one):
        link.submit(item)
    link.wait(next_one)
    assert link.poll() == [failing, next_one]
    assert isinstance(failing.error, LibraError)
    assert "host to HBM: copy of 1 blocks failed: the disk is gone" in str(failing.error)
    assert next_one.error is None
    assert link.bytes_per_s(Direction.IN) < before, "what was not copied counts for no bandwidth"


def test_close_ends_a_throttled_wait_at_once(copier: GatedCopier) -> None:
    copier.gate.set()
    clock = WallClock()
    link = ThreadLink(copier, clock, gbps=1e-6)
    item = transfer(0, num_bytes=10**9)
    link.submit(item)
    while not copier.copied:
        assert link.pending()
    link.close()
    assert clock.now() < 5.0


@pytest.mark.parametrize("gbps", [0.0, -1.0, float("nan")])
def test_a_bandwidth_that_moves_nothing_is_refused(copier: GatedCopier, gbps: float) -> None:
    with pytest.raises(LibraError, match="GB/s moves nothing"):
        ThreadLink(copier, WallClock(), gbps=gbps)
