"""Changes to a whole trace: its rate, its window, its lengths. Each returns a new trace that says what was done."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from libra.errors import LibraError
from libra.request import Request, Segment
from workloads.trace import Trace


def scale_rate(trace: Trace, request_rate: float) -> Trace:
    """Stretches time so that the trace has ``request_rate`` requests per second; keeps every request and the pattern.

    Think times stretch too, so sessions live longer at a lower rate, and so do the delays of requests that wait for
    others.
    """
    if not 0 < request_rate < float("inf"):
        raise LibraError(f"--request-rate is {request_rate}; it must be positive and finite")
    factor = trace.request_rate / request_rate
    requests = tuple(
        replace(request, arrival_s=request.arrival_s * factor, delay_s=request.delay_s * factor)
        for request in trace.requests
    )
    header = trace.header
    return Trace(
        replace(
            header,
            duration_s=header.duration_s * factor,
            provenance=replace(header.provenance, arrival_source=_touched(header.provenance.arrival_source)),
            parameters=_noted(header.parameters, time_scale=header.parameters.get("time_scale", 1.0) * factor),
        ),
        requests,
    )


def window(trace: Trace, duration_s: float, start_s: float = 0.0) -> Trace:
    """The requests that arrive in [start_s, start_s + duration_s), with ``start_s`` as the new zero.

    A window past the trace's end is as long as the trace allows; requests outside are counted, and with them those that
    wait for one outside.
    """
    if not duration_s > 0 or not 0 <= start_s < trace.header.duration_s:
        raise LibraError(
            f"a window of {duration_s:g} s from {start_s:g} s is empty: the trace holds {trace.header.duration_s:g} s"
        )
    end_s = min(start_s + duration_s, trace.header.duration_s)
    inside = _inside(trace.requests, start_s, end_s)
    if not inside:
        raise LibraError(f"no request arrives in the {duration_s:g} s from {start_s:g} s; use a longer --duration")
    counts = _counted(trace, outside_window=len(trace.requests) - len(inside))
    return Trace(replace(trace.header, duration_s=end_s - start_s, counts=counts), inside)


def _inside(requests: Iterable[Request], start_s: float, end_s: float) -> tuple[Request, ...]:
    """Those that arrive in [start_s, end_s), from ``start_s`` on, unless they wait for one that does not."""
    kept: list[Request] = []
    ids: set[int] = set()
    for request in requests:
        if start_s <= request.arrival_s < end_s and ids.issuperset(request.after):
            kept.append(replace(request, arrival_s=request.arrival_s - start_s) if start_s else request)
            ids.add(request.id)
    return tuple(kept)


def cap_lengths(trace: Trace, max_prompt_tokens: int | None = None, max_output_tokens: int | None = None) -> Trace:
    """Cuts prompts to their first ``max_prompt_tokens`` and answers to ``max_output_tokens``; counts both.

    Prompts of one session that are all cut become equal, which raises the prefix hit rate: look at the counts.
    """
    for name, limit in (("prompt", max_prompt_tokens), ("output", max_output_tokens)):
        if limit is not None and limit < 1:
            raise LibraError(f"--max-{name}-tokens is {limit}; it must be 1 or more")
    requests, prompts_capped, outputs_capped = [], 0, 0
    for original in trace.requests:
        request = original
        if max_prompt_tokens is not None and request.num_prompt_tokens > max_prompt_tokens:
            request = _with_shorter_prompt(request, max_prompt_tokens)
            prompts_capped += 1
        if max_output_tokens is not None and request.output_tokens > max_output_tokens:
            request = _with_shorter_output(request, max_output_tokens)
            outputs_capped += 1
        requests.append(request)
    if not prompts_capped and not outputs_capped:
        return trace
    header = trace.header
    return Trace(
        replace(
            header,
            provenance=replace(header.provenance, length_source=_touched(header.provenance.length_source)),
            counts=_counted(trace, prompts_capped=prompts_capped, outputs_capped=outputs_capped),
            parameters=_noted(
                header.parameters, max_prompt_tokens=max_prompt_tokens, max_output_tokens=max_output_tokens
            ),
        ),
        tuple(requests),
    )


def first_tokens(segments: Iterable[Segment], limit: int) -> tuple[Segment, ...]:
    """The first ``limit`` tokens of a list of segments."""
    kept, room = [], limit
    for segment in segments:
        if room <= 0:
            break
        kept.append(segment if segment.length <= room else segment._replace(length=room))
        room -= segment.length
    return tuple(kept)


def _with_shorter_prompt(request: Request, limit: int) -> Request:
    if request.prompt_token_ids is not None:
        return replace(request, prompt_token_ids=request.prompt_token_ids[:limit])
    return replace(request, prompt=first_tokens(request.prompt, limit))


def _with_shorter_output(request: Request, limit: int) -> Request:
    explicit = request.output_token_ids
    return replace(request, output_tokens=limit, output_token_ids=None if explicit is None else explicit[:limit])


def _touched(source: str) -> str:
    """A recorded field that was computed over is mapped; a drawn or generated one stays what it was."""
    return "mapped" if source == "native" else source


def _noted(parameters: Any, **values: object) -> dict[str, Any]:
    return {**parameters, **values}


def _counted(trace: Trace, **counts: int) -> dict[str, int]:
    """The header's counts with these added to; zeros are left out."""
    totals = dict(trace.header.counts)
    for reason, count in counts.items():
        if count:
            totals[reason] = totals.get(reason, 0) + count
    return totals


def reshape(
    trace: Trace,
    request_rate: float | None = None,
    duration_s: float | None = None,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
) -> Trace:
    """The trace at another rate, then cut to a window, then capped; None leaves each as it is. Raises LibraError."""
    if request_rate is not None:
        trace = scale_rate(trace, request_rate)
    if duration_s is not None:
        trace = window(trace, duration_s)
    return cap_lengths(trace, max_prompt_tokens, max_output_tokens)
