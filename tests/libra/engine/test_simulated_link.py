"""Transfers in virtual time: bandwidth, latency, three channels, two priorities."""

import pytest

from libra.clock import VirtualClock
from libra.engine.link import Copier, Direction, Priority, Transfer
from libra.engine.simulated_link import LinkRates, SimulatedLink

# 100 bytes/s and half a second per transfer; from disk 20 bytes/s and a second.
RATES = LinkRates(100.0, 0.5, 20.0, 1.0)
IN, OUT, DISK = Direction.IN, Direction.OUT, Direction.DISK


def link_at_zero(rates: LinkRates = RATES, copier: Copier | None = None) -> tuple[VirtualClock, SimulatedLink]:
    clock = VirtualClock()
    return clock, SimulatedLink(clock, rates, copier)


def transfer(num_bytes: int, direction: Direction = IN, priority: Priority = Priority.DEMAND) -> Transfer:
    return Transfer(direction, [], [], [], num_bytes, priority)


def times(*transfers: Transfer) -> list[tuple[float | None, float | None]]:
    return [(item.started_s, item.finished_s) for item in transfers]


def test_a_transfer_takes_latency_plus_bytes_over_bandwidth() -> None:
    clock, link = link_at_zero()
    copy = transfer(100)
    clock.advance_to(2.0)
    link.submit(copy)
    assert link.next_completion_s() == 3.5
    clock.advance_to(3.4)
    assert link.poll() == []
    clock.advance_to(3.5)
    assert link.poll() == [copy]
    assert link.poll() == [], "each is returned once"
    assert times(copy) == [(2.0, 3.5)]
    assert link.next_completion_s() is None


def test_a_channel_serves_one_after_the_other_in_order_of_submission() -> None:
    clock, link = link_at_zero()
    first, second = transfer(50), transfer(150)
    link.submit(first)
    link.submit(second)
    clock.advance_to(10.0)
    assert link.poll() == [first, second]
    assert times(first, second) == [(0.0, 1.0), (1.0, 3.0)]


def test_the_directions_run_at_the_same_time() -> None:
    clock, link = link_at_zero()
    into, out, disk = transfer(100, IN), transfer(50, OUT), transfer(20, DISK)
    for item in (into, out, disk):
        link.submit(item)
    clock.advance_to(10.0)
    assert link.poll() == [out, into, disk], "in order of completion"
    assert times(into, out, disk) == [(0.0, 1.5), (0.0, 1.0), (0.0, 2.0)]


def test_a_load_from_disk_is_no_faster_than_the_link() -> None:
    assert LinkRates(100.0, 0.5, 1000.0, 1.0).bytes_per_s(DISK) == 100.0
    assert RATES.bytes_per_s(DISK) == 20.0


def test_demand_goes_before_prefetch_but_interrupts_nothing() -> None:
    clock, link = link_at_zero()
    ahead, waiting = transfer(100, priority=Priority.PREFETCH), transfer(100, priority=Priority.PREFETCH)
    demand = transfer(50)
    link.submit(ahead)
    link.submit(waiting)
    clock.advance_to(1.0)
    link.submit(demand)
    clock.advance_to(10.0)
    assert link.poll() == [ahead, demand, waiting]
    assert times(ahead, demand, waiting) == [(0.0, 1.5), (1.5, 2.5), (2.5, 4.0)]


def test_promotion_moves_a_queued_prefetch_among_the_demands() -> None:
    clock, link = link_at_zero()
    serving, queued, promoted = transfer(50), *(transfer(50, priority=Priority.PREFETCH) for _ in range(2))
    for item in (serving, queued, promoted):
        link.submit(item)
    link.promote(promoted)
    assert promoted.priority is Priority.DEMAND
    clock.advance_to(10.0)
    assert link.poll() == [serving, promoted, queued]


def test_promoting_what_has_started_changes_nothing() -> None:
    clock, link = link_at_zero()
    serving = transfer(100, priority=Priority.PREFETCH)
    link.submit(serving)
    link.promote(serving)
    clock.advance_to(1.5)
    link.promote(serving)
    assert link.poll() == [serving]
    assert serving.finished_s == 1.5


def test_a_channel_left_idle_starts_the_next_transfer_when_it_is_submitted() -> None:
    clock, link = link_at_zero()
    first, second = transfer(50), transfer(50)
    link.submit(first)
    clock.advance_to(5.0)
    link.submit(second)
    assert times(first, second) == [(0.0, 1.0), (5.0, None)]
    assert link.poll() == [first]
    assert link.next_completion_s() == 6.0


def test_waiting_advances_the_clock_to_the_end_and_poll_still_returns_it() -> None:
    clock, link = link_at_zero()
    first, second = transfer(50), transfer(150)
    link.submit(first)
    link.submit(second)
    link.wait(second)
    assert clock.now() == 3.0
    assert link.poll() == [first, second]
    link.wait(second)
    assert clock.now() == 3.0


def test_pending_until_polled() -> None:
    clock, link = link_at_zero()
    assert not link.pending()
    link.submit(transfer(50))
    clock.advance_to(1.0)
    assert link.pending()
    link.poll()
    assert not link.pending()


def test_queue_seconds_counts_what_is_in_service_and_the_demands_in_line() -> None:
    clock, link = link_at_zero()
    assert link.queue_seconds(IN, 100) == 1.5
    link.submit(transfer(150))  # ends at 2.0
    link.submit(transfer(50))  # takes 1.0
    link.submit(transfer(500, priority=Priority.PREFETCH))  # goes behind
    clock.advance_to(0.5)
    assert link.queue_seconds(IN, 100) == pytest.approx(1.5 + 1.0 + 1.5)
    assert link.queue_seconds(OUT, 100) == pytest.approx(1.5)


class Recording(Copier):
    def __init__(self) -> None:
        self.copied: list[Transfer] = []

    def copy(self, transfer: Transfer) -> None:
        self.copied.append(transfer)


def test_data_moves_when_the_transfer_is_polled() -> None:
    copier = Recording()
    clock, link = link_at_zero(copier=copier)
    copy = transfer(50)
    link.submit(copy)
    clock.advance_to(1.0)
    assert copier.copied == []
    link.poll()
    assert copier.copied == [copy]


def test_arrivals_are_known_in_advance_and_come_true() -> None:
    clock, link = link_at_zero()
    save, *copies = transfer(100, OUT), transfer(100), transfer(50), transfer(200)
    for copy in (save, *copies):
        link.submit(copy)
    expected = [link.arrival(copy) for copy in copies]
    # Half a second before the first byte, then 100 bytes a second; the other direction is another channel.
    assert expected == [(0.5, 1.5), (2.0, 2.5), (3.0, 5.0)]
    clock.advance_to(1.75)
    assert [link.arrival(copy) for copy in copies] == expected
    clock.advance_to(9.0)
    assert [copy.finished_s for copy in link.poll() if copy is not save] == [1.5, 2.5, 5.0]
    assert [link.arrival(copy) for copy in copies] == expected
