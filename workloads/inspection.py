"""Everything that is worth knowing of a trace before using it, in one value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from libra.spec import AdapterSpec, ModelSpec
from workloads.adapters import complete_ranks
from workloads.header import TraceHeader
from workloads.prefixes import PrefixHits, infinite_cache_hits
from workloads.statistics import TraceStatistics, trace_statistics
from workloads.trace import Trace
from workloads.traps import arrival_warnings
from workloads.working_set import WorkingSet, working_set


@dataclass(frozen=True)
class Inspection:
    """A trace's header, statistics, prefix reuse and working set, and the warnings it deserves."""

    header: TraceHeader
    statistics: TraceStatistics
    prefix_hits: PrefixHits
    working_set: WorkingSet
    model: str
    block_tokens: int
    warnings: tuple[str, ...]


def inspect_trace(trace: Trace, model: ModelSpec, ranks: Sequence[int], block_tokens: int) -> Inspection:
    """Inspects ``trace`` for ``model``; ``ranks`` are for adapters whose rank the trace does not give."""
    known = complete_ranks(trace.header.adapters, ranks, trace.header.seed)
    adapters = [AdapterSpec(adapter_id, rank) for adapter_id, rank in known.items()]
    found = arrival_warnings(np.array([request.arrival_s for request in trace.requests]))
    return Inspection(
        header=trace.header,
        statistics=trace_statistics(trace),
        prefix_hits=infinite_cache_hits(trace.requests, block_tokens),
        working_set=working_set(trace, model, adapters, block_tokens),
        model=model.name,
        block_tokens=block_tokens,
        warnings=tuple(dict.fromkeys((*trace.header.warnings, *found))),
    )
