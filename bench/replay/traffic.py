"""The requests of a replay: a trace or a workload, and the changes a live server calls for."""

import math
from collections.abc import Iterable
from dataclasses import replace

from bench.replay.settings import AnswerSource, ReplaySettings
from libra.request import Request
from workloads.demand import Demand
from workloads.load import load_trace
from workloads.registry import WORKLOADS
from workloads.seeds import generator
from workloads.service import ServiceTime
from workloads.trace import Trace
from workloads.transform import reshape

DEFAULT_DURATION_S = 60.0


def build_trace(settings: ReplaySettings) -> Trace:
    """The trace to replay. Raises LibraError for whatever is wrong with the file or the demand."""
    at_once = settings.request_rate == math.inf
    request_rate = None if at_once else settings.request_rate
    if settings.trace is not None:
        trace = load_trace(settings.trace, settings.num_loras, settings.popularity, settings.seed)
        rate, duration_s = request_rate, settings.duration_s
    else:
        workload = WORKLOADS[settings.workload or ""]
        demand = Demand(
            num_adapters=settings.num_loras or workload.num_adapters or Demand.num_adapters,
            request_rate=request_rate or Demand.request_rate,
            duration_s=settings.duration_s or DEFAULT_DURATION_S,
            seed=settings.seed,
            popularity=settings.popularity,
            arrivals=settings.arrivals,
            burstiness=settings.burstiness,
        )
        trace, rate, duration_s = workload.generate(demand), None, None
    trace = reshape(trace, rate, duration_s, settings.max_prompt_tokens, settings.max_output_tokens)
    if at_once:
        trace = send_at_once(trace)
    if settings.base_share:
        trace = send_to_base(trace, settings.base_share, settings.seed)
    return hold_turns(trace) if settings.answers is AnswerSource.SERVER else trace


def send_at_once(trace: Trace) -> Trace:
    """The trace with every arrival at its start; what waits for others follows them without delay."""
    requests = tuple(replace(request, arrival_s=0.0, delay_s=0.0) for request in trace.requests)
    parameters = {**trace.header.parameters, "time_scale": 0.0}
    return Trace(replace(trace.header, duration_s=0.0, parameters=parameters), requests)


def send_to_base(trace: Trace, share: float, seed: int) -> Trace:
    """The trace with about ``share`` of its sessions sent to the base model, against which adapters are compared."""
    rng = generator(seed, "base share")
    draws: dict[str | int, bool] = {}
    requests = []
    for request in trace.requests:
        key = request.id if request.session is None else request.session
        if key not in draws:
            draws[key] = bool(rng.random() < share)
        requests.append(replace(request, adapter=None) if draws[key] else request)
    header = replace(trace.header, parameters={**trace.header.parameters, "base_share": share})
    return Trace(header, tuple(requests))


def hold_turns(trace: Trace) -> Trace:
    """The trace with every turn of a session held until the one before it is answered, plus the user's think time.

    The think time is what the trace leaves between two arrivals beyond the service time it assumed for the earlier.
    """
    service = ServiceTime()
    latest: dict[str, Request] = {}
    requests = []
    for request in trace.requests:
        held = request
        if request.session is not None:
            earlier = latest.get(request.session)
            if earlier is not None and not request.after:
                think_s = request.arrival_s - earlier.arrival_s - service.of(earlier.output_tokens)
                held = replace(request, after=(earlier.id,), delay_s=round(max(think_s, 0.0), 6))
            latest[request.session] = request
        requests.append(held)
    return Trace(trace.header, tuple(requests))


def split_requests(requests: Iterable[Request], num_parts: int) -> list[list[Request]]:
    """Deals the requests out so that those that wait for one another stay together.

    Each part keeps the order of the trace; the next group goes to the part with the fewest requests so far.
    """
    parts: list[list[Request]] = [[] for _ in range(num_parts)]
    part_of: dict[int, int] = {}
    ordered = list(requests)
    leaders = _leaders(ordered)
    for request in ordered:
        leader = leaders[request.id]
        if leader not in part_of:
            part_of[leader] = min(range(num_parts), key=lambda part: len(parts[part]))
        parts[part_of[leader]].append(request)
    return parts


def _leaders(requests: list[Request]) -> dict[int, int]:
    """Request id -> the id that stands for its group, by union-find over what waits for what."""
    parents = {request.id: request.id for request in requests}

    def find(identifier: int) -> int:
        while parents[identifier] != identifier:
            parents[identifier] = parents[parents[identifier]]
            identifier = parents[identifier]
        return identifier

    for request in requests:
        for other in request.after:
            parents[find(request.id)] = find(other)
    return {request.id: find(request.id) for request in requests}
