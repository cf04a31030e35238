"""Request records as columns, with the latencies every metric is made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bench.statistics import FloatArray
from libra.engine.record import RequestRecord

BASE_MODEL = "(base)"
MILLISECONDS = 1000.0


def ttft_ms(record: RequestRecord) -> float | None:
    """Scheduled arrival to first token; None before the first token."""
    return None if record.first_token_s is None else (record.first_token_s - record.arrival_s) * MILLISECONDS


def tpot_ms(record: RequestRecord) -> float | None:
    """First to last token over the gaps between; None unless finished, and for outputs of one token."""
    if record.status != "finished" or record.output_tokens < 2:
        return None
    if record.first_token_s is None or record.finish_s is None:
        return None
    return (record.finish_s - record.first_token_s) / (record.output_tokens - 1) * MILLISECONDS


def e2el_ms(record: RequestRecord) -> float | None:
    """Scheduled arrival to last token; None unless finished: where an abort cut a request short is no latency."""
    if record.status != "finished" or record.finish_s is None:
        return None
    return (record.finish_s - record.arrival_s) * MILLISECONDS


def tpt_ms(record: RequestRecord) -> float | None:
    """Time per token, waiting and prefill included: arrival to last token over output tokens; None unless finished."""
    latency_ms = e2el_ms(record)
    return None if latency_ms is None or record.output_tokens < 1 else latency_ms / record.output_tokens


def adapter_name(record: RequestRecord) -> str:
    """The adapter's id; the base model appears as ``(base)``."""
    return BASE_MODEL if record.adapter is None else record.adapter


@dataclass(frozen=True)
class RequestColumns:
    """A view on records: one array per quantity, computed when first asked for. It never changes the records.

    Latencies are in ms, NaN where a request has none (inside this module and its callers only: NaN is never reported).
    """

    records: Sequence[RequestRecord]

    def __len__(self) -> int:
        return len(self.records)

    def _numbers(self, name: str) -> FloatArray:
        return np.array([getattr(record, name) for record in self.records], dtype=float)

    @cached_property
    def arrival_s(self) -> FloatArray:
        return self._numbers("arrival_s")

    @cached_property
    def prompt_tokens(self) -> FloatArray:
        return self._numbers("prompt_tokens")

    @cached_property
    def output_tokens(self) -> FloatArray:
        return self._numbers("output_tokens")

    @cached_property
    def hbm_hit_tokens(self) -> FloatArray:
        return self._numbers("hbm_hit_tokens")

    @cached_property
    def host_hit_tokens(self) -> FloatArray:
        return self._numbers("host_hit_tokens")

    @cached_property
    def ttft_ms(self) -> FloatArray:
        return np.array([ttft_ms(record) for record in self.records], dtype=float)

    @cached_property
    def tpot_ms(self) -> FloatArray:
        return np.array([tpot_ms(record) for record in self.records], dtype=float)

    @cached_property
    def e2el_ms(self) -> FloatArray:
        return np.array([e2el_ms(record) for record in self.records], dtype=float)

    @cached_property
    def tpt_ms(self) -> FloatArray:
        return np.array([tpt_ms(record) for record in self.records], dtype=float)

    def part_ms(self, part: str) -> FloatArray:
        """One part of TTFT: queue, evict_wait (inside queue), adapter_load, kv_load or prefill."""
        return self._numbers(f"{part}_s") * MILLISECONDS

    @cached_property
    def is_cold(self) -> NDArray[np.bool_]:
        """Requests that waited for any load."""
        return (self.part_ms("adapter_load") + self.part_ms("kv_load")) > 0

    def token_gaps_ms(self) -> FloatArray:
        """The gaps between consecutive output tokens, pooled over the requests."""
        ends = np.cumsum([len(record.token_times) for record in self.records], dtype=np.int64)
        if not len(ends) or not ends[-1]:
            return np.empty(0)
        # All at once: a run has millions of tokens, and an array for each request costs more than its tokens.
        times_s = np.fromiter(chain.from_iterable(record.token_times for record in self.records), float, int(ends[-1]))
        is_within = np.ones(len(times_s), dtype=np.bool_)
        is_within[ends[ends < len(times_s)]] = False  # the first token of each request but the first
        return np.diff(times_s)[is_within[1:]] * MILLISECONDS

    def with_status(self, status: str) -> "RequestColumns":
        return RequestColumns([record for record in self.records if record.status == status])

    def by_adapter(self) -> dict[str, "RequestColumns"]:
        """Adapter name -> its requests, sorted by name; the base model's stand under ``BASE_MODEL``."""
        groups: dict[str, list[RequestRecord]] = {}
        for record in self.records:
            groups.setdefault(adapter_name(record), []).append(record)
        return {name: RequestColumns(groups[name]) for name in sorted(groups)}
