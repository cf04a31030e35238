"""Warnings for traces that are not what their name says (listed in docs/workloads.md)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from workloads.arrivals import FloatArray, IntArray
from workloads.columns import TraceColumns
from workloads.header import TraceHeader
from workloads.prefixes import PrefixHits, block_hits, matched_tokens, prefix_tree

DAYS_SUMMED = 14
MIN_MINUTES = 5
MIN_REQUESTS = 60
# Lumps: fewer distinct times than this share of the requests, each this far from the next.
MAX_DISTINCT_TIMES = 0.8
MIN_LUMP_S = 0.999
# A context cap: lengths within this ratio of each other, with few above and few of a like width below. On Azure's
# conversation trace of 2023 the cluster at 4,100 tokens holds 11 % of the prompts.
CLUSTER_RATIO = 1.05
MIN_CAP_TOKENS = 256
CLUSTER_SHARES = (0.01, 0.5)
CLUSTER_CONTRAST = 5
MIN_LENGTHS = 200
MIN_REPEATED_TURNS = 3
MIN_REPEATED_SHARE = 0.01
# Adapters leave less than this share of the hits that the prompts have without them.
MIN_REUSE_LEFT = 0.5
MIN_REUSE = 0.02
# The 1 % point of Kolmogorov's statistic is 1.63 / sqrt(n); sessions that a window cuts ask for some slack.
POPULARITY_POINT = 2.0


def trace_warnings(header: TraceHeader, columns: TraceColumns, hits: PrefixHits, block_tokens: int) -> tuple[str, ...]:
    """Every trap that ``columns`` show; ``hits`` are the prefix hits with (adapter, block) keys."""
    # A stretched trace keeps the pattern of the recorded one, so the clock's traps are looked for there.
    recorded_s = columns.arrival_s / float(header.parameters.get("time_scale", 1.0))
    return (
        *arrival_warnings(recorded_s),
        *assumed_burstiness_warnings(header.parameters),
        *context_cap_warnings("prompt", columns.prompt_tokens),
        *context_cap_warnings("output", columns.output_tokens),
        *repeated_session_warnings(columns),
        *adapter_reuse_warnings(header, columns, hits, block_tokens),
        *popularity_warnings(header, columns),
    )


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
    """Traps of recorded arrival times in seconds, ascending: a constant gap, lumps of a coarse clock, or minutes that
    fail the count checks."""
    if len(times) < MIN_REQUESTS:
        return ()
    gaps = np.diff(times)
    if gaps[0] > 0 and np.allclose(gaps, gaps[0], rtol=0, atol=1e-6):
        return (f"one row every {gaps[0]:g} s: these are not arrival times",)
    # The last minute is seldom whole, so it does not count.
    per_minute = np.bincount((times // 60).astype(np.int64))[:-1]
    return (*_lump_warnings(times), *minute_count_warnings(per_minute[np.newaxis, :]))


def _lump_warnings(times: FloatArray) -> tuple[str, ...]:
    distinct = np.unique(times)
    gaps = np.diff(distinct)
    if len(distinct) < 2 or len(distinct) > MAX_DISTINCT_TIMES * len(times) or gaps.min() < MIN_LUMP_S:
        return ()
    return (
        f"arrivals come in lumps every {np.median(gaps):g} s, a clock's ticks: "
        "their burstiness is the clock's; spread them over the tick",
    )


def assumed_burstiness_warnings(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Minute counts say nothing of what happens inside a minute: whatever is assumed there is named."""
    if "burstiness_in_minute" not in parameters:
        return ()
    return (
        "arrivals are placed from counts per minute: burstiness below 60 s is assumed "
        f"(burstiness_in_minute {parameters['burstiness_in_minute']}), not recorded",
    )


def context_cap_warnings(what: str, lengths: IntArray) -> tuple[str, ...]:
    """Lengths that cluster under a limit, with next to none above: the source truncated its contexts."""
    if len(lengths) < MIN_LENGTHS:
        return ()
    ordered = np.sort(lengths).astype(np.float64)
    start = np.flatnonzero(np.diff(ordered, prepend=-1.0))
    low = ordered[start]
    stop = np.searchsorted(ordered, low * CLUSTER_RATIO, side="right")
    below = start - np.searchsorted(ordered, low / CLUSTER_RATIO, side="left")
    inside, above = stop - start, len(ordered) - stop
    share = inside / len(ordered)
    stands_out = (np.maximum(below, above) * CLUSTER_CONTRAST <= inside) & (low >= MIN_CAP_TOKENS)
    stands_out &= (share >= CLUSTER_SHARES[0]) & (share <= CLUSTER_SHARES[1])
    if not stands_out.any():
        return ()
    best = int(np.argmax(np.where(stands_out, inside, 0)))
    first, last = np.percentile(ordered[start[best] : stop[best]], (5, 95))
    beyond = above[best] / len(ordered)
    return (
        f"{share[best]:.0%} of {what} lengths lie at {first:,.0f}-{last:,.0f} tokens and {beyond:.1%} above: "
        "a context cap cut them",
    )


def repeated_session_warnings(columns: TraceColumns) -> tuple[str, ...]:
    """Sessions of several turns whose prompts are as long, turn by turn, as those of another session: copies."""
    order = np.argsort(columns.session, kind="stable")
    lengths = columns.prompt_tokens[order].tolist()
    stops = np.cumsum(np.bincount(columns.session)).tolist()
    sessions = [tuple(lengths[start:stop]) for start, stop in zip([0, *stops], stops, strict=False)]
    long = [session for session in sessions if len(set(session)) >= MIN_REPEATED_TURNS]
    copies = len(long) - len(set(long))
    if copies < MIN_REPEATED_SHARE * len(long) or not copies:
        return ()
    return (
        f"{copies:,} of {len(long):,} sessions of {MIN_REPEATED_TURNS} or more turns repeat another's prompt lengths "
        "turn by turn: they are copies",
    )


def adapter_reuse_warnings(
    header: TraceHeader, columns: TraceColumns, hits: PrefixHits, block_tokens: int
) -> tuple[str, ...]:
    """Adapters that divide prompts which share prefixes, as when one is drawn for every request and nobody says so."""
    said = header.parameters.get("adapter_per") == "request"
    if said or len(columns.adapter_ids) == 1 or hits.rate > MIN_REUSE_LEFT:
        return ()
    shared = block_hits(columns, matched_tokens(prefix_tree(columns, by_adapter=False)), block_tokens)
    if shared.rate < MIN_REUSE or hits.rate > MIN_REUSE_LEFT * shared.rate:
        return ()
    return (
        f"adapters divide the prefixes: {shared.rate:.1%} of prompt tokens are prefix hits without adapters and "
        f"{hits.rate:.1%} with them; were adapters drawn per request?",
    )


def popularity_warnings(header: TraceHeader, columns: TraceColumns) -> tuple[str, ...]:
    """A popularity that is called Zipf's and is another: S-LoRA's alpha and Punica's "zipf:1.5" are."""
    name, _, exponent = str(header.parameters.get("popularity", "")).partition(":")
    if name != "zipf" or not exponent:
        return ()
    first_turns = np.unique(columns.session, return_index=True)[1]
    counts = np.sort(np.bincount(columns.adapter[first_turns]))[::-1]
    shares = np.arange(1.0, len(header.adapters) + 1) ** -float(exponent)
    expected = np.cumsum(shares / shares.sum())
    found = np.cumsum(counts) / counts.sum()
    distance = float(np.abs(found - expected[: len(found)]).max())
    if distance <= POPULARITY_POINT / np.sqrt(counts.sum()):
        return ()
    return (
        f"popularity is called zipf:{exponent} and is not: the busiest adapter has {found[0]:.0%} of the sessions, "
        f"not {expected[0]:.0%}, and the shares are up to {distance:.2f} apart",
    )
