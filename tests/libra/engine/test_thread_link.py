"""Background transfers: order, priorities, pace and faults."""

import threading
from collections.abc import Callable, Iterator

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


class LaneOf(Copier):
    """Begins copies at once and ends them in order, each when the gate lets one through."""

    window_bytes = 2500

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.begun: list[int] = []

    def copy(self, transfer: Transfer) -> None:
        raise AssertionError("copies of a lane are begun")

    def begin(self, transfer: Transfer) -> Callable[[], float]:
        self.begun.append(transfer.hbm_blocks[0])
        if transfer.hbm_blocks == [13]:
            raise OSError("the disk is gone")

        def wait() -> float:
            assert self.gate.acquire(timeout=10)
            if transfer.hbm_blocks == [14]:
                raise RuntimeError("the device is gone")
            return 0.5

        return wait


def test_a_lane_is_kept_supplied_up_to_its_window_and_demand_goes_first() -> None:
    copier = LaneOf()
    link = ThreadLink(copier, WallClock())
    prefetches = [transfer(block, priority=Priority.PREFETCH) for block in range(5)]
    for item in prefetches:
        link.submit(item)
    while len(copier.begun) < 3:
        assert link.pending()
    demand = transfer(9)
    link.submit(demand)
    assert copier.begun == [0, 1, 2], "1000 bytes each: the third reaches the window"
    assert link.queue_seconds(Direction.IN, 0) > 0
    copier.gate.release()
    link.wait(prefetches[0])
    for _ in range(5):
        copier.gate.release()
    link.wait(prefetches[-1])
    assert copier.begun == [0, 1, 2, 9, 3, 4]
    assert link.poll() == [*prefetches[:3], demand, *prefetches[3:]]
    # What the device measured counts, not how long the host waited.
    assert link.bytes_per_s(Direction.IN) == pytest.approx((5e6 + 6 * 1000) / (1e-3 + 6 * 0.5))
    assert link.queue_seconds(Direction.IN, 0) == 0
    link.close()


def test_a_lane_that_fails_to_begin_or_to_end_says_so_and_goes_on() -> None:
    copier = LaneOf()
    link = ThreadLink(copier, WallClock())
    items = [transfer(block) for block in (13, 14, 15)]
    for item in items:
        link.submit(item)
        copier.gate.release()
    link.wait(items[-1])
    assert link.poll() == items
    assert "the disk is gone" in str(items[0].error)
    assert "the device is gone" in str(items[1].error)
    assert items[2].error is None
    link.close()


def test_a_throttled_lane_has_one_copy_under_way() -> None:
    copier = LaneOf()
    link = ThreadLink(copier, WallClock(), gbps=1.0)
    items = [transfer(block) for block in range(2)]
    for item in items:
        link.submit(item)
    while not copier.begun:
        assert link.pending()
    assert copier.begun == [0]
    for _ in items:
        copier.gate.release()
    link.wait(items[1])
    assert copier.begun == [0, 1]
    link.close()


@pytest.mark.parametrize("gbps", [0.0, -1.0, float("nan")])
def test_a_bandwidth_that_moves_nothing_is_refused(copier: GatedCopier, gbps: float) -> None:
    with pytest.raises(LibraError, match="GB/s moves nothing"):
        ThreadLink(copier, WallClock(), gbps=gbps)
