"""What a run leaves behind: one record per request, a timeline, and counters."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class RequestRecord:
    """Times in seconds on the engine's clock; None where the request never got there.

    ``status``: finished | rejected | aborted | failed (its adapter could not be read) | cancelled (a request it waits
    for did not finish) | unfinished (the run was cut short). ``arrival_s`` of a request that waits for others is when
    they let it go.
    ``adapter_tier``: where the adapter was when the request was first considered: hbm | loading | host | disk | base.
    The parts queue_s + adapter_load_s + kv_load_s + prefill_s add up to first_token_s - arrival_s; ``evict_wait_s``
    is the part of ``queue_s`` spent waiting for evicted blocks to be saved.
    """

    id: int
    adapter: str | None
    session: str | None
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    status: str = "unfinished"
    reason: str = ""
    admitted_s: float | None = None
    first_token_s: float | None = None
    finish_s: float | None = None
    queue_s: float = 0.0
    evict_wait_s: float = 0.0
    adapter_load_s: float = 0.0
    kv_load_s: float = 0.0
    prefill_s: float = 0.0
    adapter_tier: str = ""
    hbm_hit_tokens: int = 0
    host_hit_tokens: int = 0
    preemptions: int = 0
    task: str | None = None
    token_times: list[float] = field(default_factory=list)


@dataclass(slots=True)
class RunResult:
    """One policy, one trace, one seed.

    ``timeline`` maps column -> list, one entry per sample: time_s, adapter_blocks, history_blocks, running_blocks,
    in_flight_blocks, free_blocks, host_blocks, invalid_blocks, adapters_in_hbm, waiting, running.
    ``counters`` are totals: swap_in_bytes, swap_out_bytes, adapter_in_bytes, prefetch_in_bytes, prefetch_used_bytes,
    preemptions, stall_s, num_steps, dropped_kv_blocks.
    """

    policy: str
    seed: int
    records: list[RequestRecord]
    timeline: dict[str, list[float]]
    counters: dict[str, float]
    duration_s: float
    device: str
    caption: str
    complete: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
