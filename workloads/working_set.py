"""The working set: what a cache must hold to keep every live session and every adapter (docs/workloads.md)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from libra.spec import DEFAULT_BLOCK_TOKENS, GIB, AdapterSpec, ModelSpec
from workloads.arrivals import FloatArray
from workloads.columns import TraceColumns, trace_columns
from workloads.holding import held_intervals
from workloads.prefixes import PrefixTree, prefix_tree
from workloads.service import ServiceTime
from workloads.trace import Trace


@dataclass(frozen=True)
class WorkingSet:
    """Mean over time of the KV of live sessions, plus all adapters, in blocks of ``block_bytes``."""

    kv_blocks: int
    adapter_blocks: int
    block_bytes: int

    @property
    def blocks(self) -> int:
        return self.kv_blocks + self.adapter_blocks

    @property
    def num_bytes(self) -> int:
        return self.blocks * self.block_bytes

    @property
    def gib(self) -> float:
        return self.num_bytes / GIB


def working_set(
    trace: Trace, model: ModelSpec, adapters: Iterable[AdapterSpec], block_tokens: int = DEFAULT_BLOCK_TOKENS
) -> WorkingSet:
    """The working set of ``trace`` on ``model``.

    A session is live from its first arrival in the trace to the assumed end of its last answer, and holds its latest
    prompt and answer. A prefix that several live sessions of one adapter share counts once. KV is rounded up to whole
    blocks in the total, not per session.
    """
    return working_set_of(mean_live_tokens(trace, block_tokens=block_tokens), model, adapters, block_tokens)


def working_set_of(
    live_tokens: float, model: ModelSpec, adapters: Iterable[AdapterSpec], block_tokens: int
) -> WorkingSet:
    """The working set of a trace whose live sessions hold ``live_tokens`` on average."""
    return WorkingSet(
        kv_blocks=-int(-live_tokens // block_tokens),
        adapter_blocks=sum(adapter.num_blocks(model, block_tokens) for adapter in adapters),
        block_bytes=model.block_bytes(block_tokens),
    )


def mean_live_tokens(
    trace: Trace, service: ServiceTime | None = None, block_tokens: int = DEFAULT_BLOCK_TOKENS
) -> float:
    """Mean over the trace's window of the tokens that live sessions hold; see working_set."""
    columns = trace_columns(trace.requests, block_tokens, service)
    return mean_held_tokens(prefix_tree(columns), release_times(columns), trace.header.duration_s)


def mean_held_tokens(tree: PrefixTree, until_s: FloatArray, end_s: float) -> float:
    """Mean over [0, ``end_s``) of the tokens held when each request holds its context until ``until_s``."""
    held = held_intervals(tree, np.minimum(until_s, end_s))
    return float((held.tokens * (held.until_s - held.from_s)).sum() / end_s)


def release_times(columns: TraceColumns) -> FloatArray:
    """When each request's context gives way: to the session's next turn, or at the assumed end of its answer."""
    order = np.lexsort((columns.arrival_s, columns.session))
    session, arrival_s = columns.session[order], columns.arrival_s[order]
    until_s = columns.end_s[order]
    followed = np.flatnonzero(session[1:] == session[:-1])
    until_s[followed] = arrival_s[followed + 1]
    release_s = np.empty_like(until_s)
    release_s[order] = until_s
    return release_s
