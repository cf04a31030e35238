"""The result block of `vllm bench serve`, byte by byte, for people to paste beside one of vLLM's own.

Its latencies count from sending, as vLLM's do. With --max-concurrency the two sections follow that vLLM prints for
``client_queue_time`` and ``e2el_including_client_queue``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.replay.observation import Observation
from bench.statistics import FloatArray

WIDTH = 50


@dataclass(frozen=True)
class BlockFacts:
    """What the block says beyond the observations. ``request_goodput`` None: no objectives were given."""

    duration_s: float
    request_rate: float
    max_concurrency: int | None
    request_goodput: float | None


def result_block(observations: Sequence[Observation], facts: BlockFacts) -> str:
    """The block for all requests of a run; figures without data are 0.00, as in vLLM."""
    finished = [seen for seen in observations if seen.finished]
    prompt_tokens = sum(seen.record.prompt_tokens for seen in finished)
    output_tokens = sum(seen.record.output_tokens for seen in finished)
    peak_tokens, peak_requests = _peaks(finished)
    lines = [_divider("Serving Benchmark Result", "="), _count("Successful requests:", len(finished))]
    lines.append(_count("Failed requests:", len(observations) - len(finished)))
    if facts.max_concurrency is not None:
        lines.append(_count("Maximum request concurrency:", facts.max_concurrency))
    lines += [
        _figure("Request rate configured (RPS):", facts.request_rate),
        _figure("Benchmark duration (s):", facts.duration_s),
        _count("Total input tokens:", prompt_tokens),
        _count("Total generated tokens:", output_tokens),
        _figure("Request throughput (req/s):", len(finished) / facts.duration_s),
    ]
    if facts.request_goodput is not None:
        lines.append(_figure("Request goodput (req/s):", facts.request_goodput))
    lines += [
        _figure("Output token throughput (tok/s):", output_tokens / facts.duration_s),
        _figure("Peak output token throughput (tok/s):", peak_tokens),
        _figure("Peak concurrent requests:", peak_requests),
        _figure("Total token throughput (tok/s):", (prompt_tokens + output_tokens) / facts.duration_s),
    ]
    return "\n".join([*lines, *_latencies(finished, facts.max_concurrency is not None), "=" * WIDTH])


def _latencies(finished: Sequence[Observation], has_limit: bool) -> list[str]:
    from_sending = [_send_latencies(seen) for seen in finished]
    ttft, tpot, e2el = (
        (np.array(column, dtype=float) for column in zip(*from_sending, strict=True))
        if finished
        else (np.empty(0),) * 3
    )
    gaps = [np.diff(seen.record.token_times) for seen in finished if len(seen.record.token_times) > 1]
    lines = [
        *_section("Time to First Token", "TTFT", ttft),
        *_section("Time per Output Token (excl. 1st token)", "TPOT", tpot[~np.isnan(tpot)]),
        *_section("Inter-token Latency", "ITL", np.concatenate(gaps) if gaps else np.empty(0)),
    ]
    if has_limit:
        waits = np.array([seen.slot_wait_s for seen in finished])
        lines += _section(" Client-side Queueing ", "Client Queue Time", waits)
        lines += _section(" Queue-inclusive End-to-end Latency ", "E2EL incl. Client Queue", e2el + waits)
    return lines


def _send_latencies(seen: Observation) -> tuple[float, float | None, float]:
    """TTFT, TPOT and E2EL in seconds from the last attempt's sending; TPOT None for answers of one token."""
    record = seen.record
    assert record.first_token_s is not None
    assert record.finish_s is not None
    assert seen.sent_s is not None
    gaps = record.output_tokens - 1
    tpot = (record.finish_s - record.first_token_s) / gaps if gaps > 0 else None
    return record.first_token_s - seen.sent_s, tpot, record.finish_s - seen.sent_s


def _peaks(finished: Sequence[Observation]) -> tuple[float, float]:
    """Most events with tokens in one second, and most requests with a part in one second, from the first sending."""
    if not finished:
        return 0.0, 0.0
    start_s = min(seen.sent_s or 0.0 for seen in finished)
    token_s = np.concatenate([np.array(seen.record.token_times) for seen in finished]) - start_s
    starts = np.array([seen.sent_s for seen in finished], dtype=float) - start_s
    ends = np.array([seen.record.finish_s for seen in finished], dtype=float) - start_s
    num_seconds = int(np.ceil(ends.max())) + 2
    changes = np.bincount(starts.astype(int), minlength=num_seconds) - np.bincount(
        ends.astype(int) + 1, minlength=num_seconds
    )
    return float(np.bincount(token_s.astype(int)).max()), float(np.cumsum(changes).max())


def _section(title: str, name: str, seconds: FloatArray) -> list[str]:
    values = seconds * 1e3 if seconds.size else np.zeros(1)
    return [
        _divider(title, "-"),
        _figure(f"Mean {name} (ms):", float(values.mean())),
        _figure(f"Median {name} (ms):", float(np.median(values))),
        _figure(f"P99 {name} (ms):", float(np.percentile(values, 99))),
    ]


def _divider(title: str, fill: str) -> str:
    text = f" {title} " if fill == "=" else title
    return f"{text:{fill}^{WIDTH}}"


def _count(label: str, value: int) -> str:
    return f"{label:<40} {value:<10}"


def _figure(label: str, value: float) -> str:
    return f"{label:<40} {value:<10.2f}"
