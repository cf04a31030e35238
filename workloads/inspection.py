"""Everything that is worth knowing of a trace before using it, in one value."""

from collections.abc import Sequence
from dataclasses import dataclass

from libra.spec import AdapterSpec, ModelSpec
from workloads.adapters import complete_ranks
from workloads.columns import trace_columns
from workloads.garbage import collection_paused
from workloads.header import TraceHeader
from workloads.memory_demand import MemoryDemand, memory_demand
from workloads.prefixes import PrefixHits, block_hits, matched_tokens, prefix_tree
from workloads.statistics import Samples, TraceStatistics, samples_of, statistics_of
from workloads.trace import Trace
from workloads.traps import trace_warnings
from workloads.working_set import WorkingSet, mean_held_tokens, release_times, working_set_of


@dataclass(frozen=True)
class Inspection:
    """A trace's header, statistics, prefix reuse, working set and memory demand, and the warnings it deserves."""

    header: TraceHeader
    statistics: TraceStatistics
    samples: Samples
    prefix_hits: PrefixHits
    working_set: WorkingSet
    memory_demand: MemoryDemand
    model: str
    block_tokens: int
    warnings: tuple[str, ...]


@collection_paused()
def inspect_trace(trace: Trace, model: ModelSpec, ranks: Sequence[int], block_tokens: int) -> Inspection:
    """Inspects ``trace`` for ``model``; ``ranks`` are for adapters whose rank the trace does not give."""
    header = trace.header
    known = complete_ranks(header.adapters, ranks, header.seed)
    adapters = {adapter_id: AdapterSpec(adapter_id, rank) for adapter_id, rank in known.items()}
    columns = trace_columns(trace.requests, block_tokens)
    tree = prefix_tree(columns)
    matched = matched_tokens(tree)
    hits = block_hits(columns, matched, block_tokens)
    samples = samples_of(columns, matched)
    live_tokens = mean_held_tokens(tree, release_times(columns), header.duration_s)
    return Inspection(
        header=header,
        statistics=statistics_of(trace, columns, samples),
        samples=samples,
        prefix_hits=hits,
        working_set=working_set_of(live_tokens, model, adapters.values(), block_tokens),
        memory_demand=memory_demand(tree, adapters, model, block_tokens, header.duration_s),
        model=model.name,
        block_tokens=block_tokens,
        warnings=tuple(dict.fromkeys((*header.warnings, *trace_warnings(header, columns, hits, block_tokens)))),
    )
