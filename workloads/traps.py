"""Warnings for traces that are not what their name says (the trap list of the shared traces; design, section 9)."""

import numpy as np

from workloads.arrivals import FloatArray, IntArray

DAYS_SUMMED = 14
MIN_MINUTES = 5
MIN_REQUESTS = 60


def minute_count_warnings(counts: IntArray) -> tuple[str, ...]:
    """Traps of a table of invocation counts, shape [functions, minutes].

    Equal totals in every minute mean a constant feed; counts all divisible by 14 mean sums over Azure's 14 days
    published as one day.
    """
    warnings = []
    totals = counts.sum(axis=0)
    if len(totals) >= MIN_MINUTES and totals[0] > 0 and np.all(totals == totals[0]):
        warnings.append(f"every minute has the same count ({totals[0]}): this is a constant feed, not traffic")
    used = counts[counts > 0]
    if len(used) >= MIN_MINUTES and np.all(used % DAYS_SUMMED == 0):
        warnings.append(f"every minute count is divisible by {DAYS_SUMMED}: these are sums over {DAYS_SUMMED} days")
    return tuple(warnings)


def arrival_warnings(times: FloatArray) -> tuple[str, ...]:
    """Traps of recorded arrival times in seconds, ascending: a constant gap, or minutes that fail the count checks."""
    if len(times) < MIN_REQUESTS:
        return ()
    gaps = np.diff(times)
    if gaps[0] > 0 and np.allclose(gaps, gaps[0], rtol=0, atol=1e-6):
        return (f"one row every {gaps[0]:g} s: these are not arrival times",)
    # The last minute is seldom whole, so it does not count.
    per_minute = np.bincount((times // 60).astype(np.int64))[:-1]
    return minute_count_warnings(per_minute[np.newaxis, :])
