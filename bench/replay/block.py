"""The result block of `vllm bench serve`, byte by byte, for people to paste beside one of vLLM's own.

Its latencies count from sending, as vLLM's do, and where a request was sent more than once from the first time; its
goodput is judged by them. With --max-concurrency the two sections follow that vLLM prints for ``client_queue_time`` and
``e2el_including_client_queue``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.columns import MILLISECONDS
from bench.metrics import meets
from bench.replay.observation import Observation
from bench.slo import Objectives
from bench.statistics import FloatArray

WIDTH = 50


@dataclass(frozen=True)
class BlockFacts:
    """What the block says beyond the observations."""

    duration_s: float
    request_rate: float
    max_concurrency: int | None
    objectives: Objectives


def result_block(observations: Sequence[Observation], facts: BlockFacts) -> str:
    """The block for all requests of a run; figures without data are 0.00, as in vLLM."""
    finished = [seen for seen in observations if seen.finished]
    prompt_tokens = sum(seen.record.prompt_tokens for seen in finished)
    output_tokens = sum(seen.record.output_tokens for seen in finished)
    latencies = _latencies(finished)
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
    if facts.objectives:
        num_good = int(meets(facts.objectives, latencies).sum())
        lines.append(_figure("Request goodput (req/s):", num_good / facts.duration_s))
    lines += [
        _figure("Output token throughput (tok/s):", output_tokens / facts.duration_s),
        _figure("Peak output token throughput (tok/s):", peak_tokens),
        _figure("Peak concurrent requests:", peak_requests),
        _figure("Total token throughput (tok/s):", (prompt_tokens + output_tokens) / facts.duration_s),
    ]
    sections = _sections(finished, latencies, facts.max_concurrency is not None)
    return "\n".join([*lines, *sections, "=" * WIDTH])


def _latencies(finished: Sequence[Observation]) -> dict[str, FloatArray]:
    """Latencies in ms by the names of objectives, from the first sending; NaN is the TPOT of an answer of one token."""
    sent_s = np.array([seen.first_sent_s for seen in finished], dtype=float)
    first_s = np.array([seen.record.first_token_s for seen in finished], dtype=float)
    finish_s = np.array([seen.record.finish_s for seen in finished], dtype=float)
    tokens = np.array([seen.record.output_tokens for seen in finished], dtype=float)
    gaps = np.where(tokens > 1, tokens - 1, np.nan)
    seconds = {
        "ttft": first_s - sent_s,
        "tpot": (finish_s - first_s) / gaps,
        "tpt": (finish_s - sent_s) / np.maximum(tokens, 1),
        "e2el": finish_s - sent_s,
    }
    return {name: values * MILLISECONDS for name, values in seconds.items()}


def _sections(finished: Sequence[Observation], latencies: dict[str, FloatArray], has_limit: bool) -> list[str]:
    tpot = latencies["tpot"]
    gaps = [np.diff(seen.record.token_times) for seen in finished if len(seen.record.token_times) > 1]
    itl = np.concatenate(gaps) * MILLISECONDS if gaps else np.empty(0)
    lines = [
        *_section("Time to First Token", "TTFT", latencies["ttft"]),
        *_section("Time per Output Token (excl. 1st token)", "TPOT", tpot[~np.isnan(tpot)]),
        *_section("Inter-token Latency", "ITL", itl),
    ]
    if has_limit:
        waits = np.array([seen.slot_wait_s for seen in finished]) * MILLISECONDS
        lines += _section(" Client-side Queueing ", "Client Queue Time", waits)
        lines += _section(" Queue-inclusive End-to-end Latency ", "E2EL incl. Client Queue", latencies["e2el"] + waits)
    return lines


def _peaks(finished: Sequence[Observation]) -> tuple[float, float]:
    """Most events with tokens in one second, and most requests with a part in one second, from the first sending."""
    if not finished:
        return 0.0, 0.0
    sent_s = np.array([seen.first_sent_s for seen in finished], dtype=float)
    start_s = sent_s.min()
    token_s = np.concatenate([np.array(seen.record.token_times) for seen in finished]) - start_s
    starts = sent_s - start_s
    ends = np.array([seen.record.finish_s for seen in finished], dtype=float) - start_s
    num_seconds = int(np.ceil(ends.max())) + 2
    changes = np.bincount(starts.astype(int), minlength=num_seconds) - np.bincount(
        ends.astype(int) + 1, minlength=num_seconds
    )
    return float(np.bincount(token_s.astype(int)).max()), float(np.cumsum(changes).max())


def _section(title: str, name: str, milliseconds: FloatArray) -> list[str]:
    values = milliseconds if milliseconds.size else np.zeros(1)
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
