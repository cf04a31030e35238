"""Virtual time stands still until told; wall time does not."""

import math
import threading

from libra.clock import VirtualClock, WallClock


def test_a_virtual_clock_jumps_and_never_goes_back() -> None:
    clock = VirtualClock()
    assert clock.now() == 0.0
    clock.advance_to(5.0)
    clock.advance_to(3.0)
    assert clock.now() == 5.0


def test_a_wall_clock_starts_at_zero_and_sleeps() -> None:
    clock = WallClock()
    start_s = clock.now()
    assert 0.0 <= start_s < 1.0
    clock.advance_to(start_s + 0.02)
    assert clock.now() >= start_s + 0.02
    before_s = clock.now()
    clock.advance_to(0.0)
    assert clock.now() - before_s < 0.5


def test_a_rest_on_a_wall_clock_ends_at_its_time_or_when_somebody_rings() -> None:
    clock = WallClock()
    clock.rest_until(clock.now() + 0.02)
    assert clock.now() >= 0.02
    threading.Timer(0.02, clock.ring).start()
    clock.rest_until(math.inf)
    clock.ring()
    before_s = clock.now()
    clock.rest_until(before_s + 10)
    assert clock.now() - before_s < 5


def test_a_rest_in_virtual_time_is_a_jump() -> None:
    clock = VirtualClock()
    clock.ring()
    clock.rest_until(5.0)
    assert clock.now() == 5.0
