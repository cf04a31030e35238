"""The memory that requests in flight ask for, second by second, and how much it changes: the paper's own check.

The paper (HPCA version, motivation) reports that the memory its adapters and their KV need changes by 48.1 % a second
on average, and that 73.9 % of the changes are above 20 %; it gives no formula. Ours: at a whole second t an adapter
demands itself, if one of its requests is in flight, and the KV of those requests: their prompts, a prefix they share
counted once, and as much of their answers as the assumed service time has produced. A change is
|demand at t + 1 - demand at t| / demand at t, over all adapters and seconds with a demand at t. A demand that ends is
a change of 100 %; one that begins from zero has no relative change: it is counted apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from libra.spec import AdapterSpec, ModelSpec
from workloads.arrivals import FloatArray, IntArray
from workloads.columns import TraceColumns
from workloads.holding import Held, held_intervals
from workloads.prefixes import PrefixTree

PAPER_MEAN_CHANGE = 0.481
PAPER_LARGE_SHARE = 0.739
LARGE_CHANGE = 0.2
MAX_CELLS = 4_000_000  # of one table [adapters, seconds]; more adapters are taken in turns


@dataclass(frozen=True)
class Changes:
    """Relative changes from one second to the next: how many, their mean, the share above 20 %, and how many rises from
    zero are not among them. Without any, mean and share are None."""

    count: int
    mean: float | None
    large_share: float | None
    from_zero: int


@dataclass(frozen=True)
class MemoryDemand:
    """Bytes that requests in flight demand at the whole seconds of a trace, and adapters with any, shape [seconds]."""

    adapter_bytes: FloatArray
    kv_bytes: FloatArray
    adapters_in_flight: IntArray
    per_adapter: Changes
    together: Changes


def memory_demand(
    tree: PrefixTree, adapters: Mapping[str, AdapterSpec], model: ModelSpec, block_tokens: int, duration_s: float
) -> MemoryDemand:
    """The demand at 0, 1, 2, ... s before ``duration_s``; see the module for what it is.

    An adapter takes whole blocks of ``block_tokens``; KV is not rounded.
    """
    columns, num_seconds = tree.columns, int(np.ceil(duration_s))
    blocks = [0 if name is None else adapters[name].num_blocks(model, block_tokens) for name in columns.adapter_ids]
    adapter_bytes = np.array(blocks, dtype=np.float64) * model.block_bytes(block_tokens)
    token_bytes = model.kv_bytes_per_token
    prompts = held_intervals(tree, columns.end_s, prompts_only=True)
    totals = np.zeros((2, num_seconds))
    in_flight = np.zeros(num_seconds, dtype=np.int64)
    per_adapter = _Tally()
    step = max(1, MAX_CELLS // num_seconds)
    for start in range(0, len(blocks), step):
        shape = (min(step, len(blocks) - start), num_seconds)
        busy = _requests_in_flight(columns, start, shape) > 0
        # Sums of times leave rounding errors where nothing is in flight.
        tokens = busy * (_prompt_tokens(prompts, start, shape) + _answer_tokens(columns, start, shape))
        own = adapter_bytes[start : start + step, np.newaxis] * busy
        kv = token_bytes * tokens
        totals += own.sum(axis=0), kv.sum(axis=0)
        in_flight += busy.sum(axis=0)
        per_adapter.add(own + kv)
    together = _Tally()
    together.add(totals.sum(axis=0, keepdims=True))
    return MemoryDemand(totals[0], totals[1], in_flight, per_adapter.changes(), together.changes())


class _Tally:
    """Adds up relative changes table by table."""

    def __init__(self) -> None:
        self._count = self._large = self._from_zero = 0
        self._sum = 0.0

    def add(self, table: FloatArray) -> None:
        """Counts the changes along the rows of ``table``, shape [adapters, seconds]."""
        before, after = table[:, :-1], table[:, 1:]
        some = before > 0
        changes = np.abs(after[some] - before[some]) / before[some]
        self._count += len(changes)
        self._sum += float(changes.sum())
        self._large += int((changes > LARGE_CHANGE).sum())
        self._from_zero += int((~some & (after > 0)).sum())

    def changes(self) -> Changes:
        if not self._count:
            return Changes(0, None, None, self._from_zero)
        return Changes(self._count, self._sum / self._count, self._large / self._count, self._from_zero)


def _requests_in_flight(columns: TraceColumns, start: int, shape: tuple[int, int]) -> FloatArray:
    row = columns.adapter - start
    return _at_seconds(row, columns.arrival_s, columns.end_s, np.ones(len(row)), shape)


def _prompt_tokens(prompts: Held, start: int, shape: tuple[int, int]) -> FloatArray:
    return _at_seconds(prompts.adapter - start, prompts.from_s, prompts.until_s, prompts.tokens, shape)


def _answer_tokens(columns: TraceColumns, start: int, shape: tuple[int, int]) -> FloatArray:
    """Tokens of the answers so far: the sum of pace * (t - begin) is t * sum(pace) - sum(pace * begin)."""
    row, begin_s, end_s = columns.adapter - start, columns.first_token_s, columns.end_s
    pace = columns.output_tokens / (end_s - begin_s)
    slope = _at_seconds(row, begin_s, end_s, pace, shape)
    lag = _at_seconds(row, begin_s, end_s, pace * begin_s, shape)
    return np.maximum(np.arange(shape[1]) * slope - lag, 0)


def _at_seconds(
    row: IntArray, from_s: FloatArray, until_s: FloatArray, weight: FloatArray | IntArray, shape: tuple[int, int]
) -> FloatArray:
    """Sum of the weights of the intervals [from_s, until_s) of each row that hold at 0, 1, 2, ... s, as ``shape``.

    Intervals whose row is outside the table are left out.
    """
    rows, seconds = shape
    inside = (row >= 0) & (row < rows)
    steps = np.zeros(rows * (seconds + 1))
    for times, sign in ((from_s, 1), (until_s, -1)):
        second = np.clip(np.ceil(times[inside]), 0, seconds).astype(np.int64)
        cells = row[inside] * (seconds + 1) + second
        steps += sign * np.bincount(cells, weight[inside], len(steps))
    table: FloatArray = np.cumsum(steps.reshape(rows, seconds + 1), axis=1)[:, :seconds]
    return table
