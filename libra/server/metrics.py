"""Prometheus metrics: vLLM's names where it has one, ``libra:`` for what nobody else exports."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from libra.server.answers import cached_tokens
from libra.server.engine_client import EngineClient
from libra.server.generation import Ended
from libra.server.snapshot import TIERS, Snapshot

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000)
TTFT_PARTS = ("queue", "adapter_load", "kv_load", "prefill")
# Fields of OpenAI's API and of common clients that are accepted and change nothing. Others are counted as "other".
_NAMED_FIELDS = frozenset({
    "best_of", "frequency_penalty", "length_penalty", "logit_bias", "lora_path", "metadata", "min_p",
    "parallel_tool_calls", "presence_penalty", "prompt_logprobs", "reasoning_effort", "repetition_penalty",
    "response_format", "service_tier", "store", "suffix", "tool_choice", "tools", "truncate_prompt_tokens",
    "use_beam_search",
})  # fmt: skip

Totals = Mapping[tuple[str, ...], float]


class ServerMetrics:
    """One registry per server. ``observe`` and the ``count_`` methods are the event loop's."""

    def __init__(self, engine: EngineClient, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name}
        self._ttft = self._histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", _SECONDS)
        self._itl = self._histogram("vllm:inter_token_latency_seconds", "Time between tokens.", _SECONDS)
        self._tpot = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time between the tokens of a request.", _SECONDS
        )
        self._latency = self._histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", _SECONDS)
        self._queue = self._histogram("vllm:request_queue_time_seconds", "Arrival to admission.", _SECONDS)
        self._prompt = self._histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self._output = self._histogram("vllm:request_generation_tokens", "Tokens generated for a request.", _TOKENS)
        self._parts = self._histogram("libra:ttft_part_seconds", "The parts of time to first token.", _SECONDS, "part")
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens of ended requests.")
        self._output_tokens = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._queries = self._counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the KV cache.")
        self._hits = self._counter("vllm:prefix_cache_hits", "Prompt tokens found in HBM or host memory.")
        self._success = self._counter("vllm:request_success", "Ended requests.", "finished_reason")
        self._tiers = self._counter(
            "libra:requests_by_adapter_tier", "Requests by where their adapter was when they were considered.", "tier"
        )
        self._ignored = self._counter("libra:ignored_fields", "Body fields that change nothing here.", "field")
        self._refused = self._counter("libra:refused_requests", "Answers with an error status.", "status")
        self._unlogged = self._counter("libra:unlogged_requests", "Lines that could not go into the request log.")
        self.registry.register(_EngineCollector(engine, model_name))

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def observe(self, ended: Ended) -> None:
        """Takes in a sequence that is over."""
        record = ended.record
        reason = ended.choice.finish_reason or "abort"
        self._success.labels(**self._labels, finished_reason=reason).inc()
        self._prompt_tokens.inc(record.prompt_tokens)
        self._output_tokens.inc(record.output_tokens)
        if record.admitted_s is not None:
            self._tiers.labels(**self._labels, tier=record.adapter_tier).inc()
            self._queries.inc(record.prompt_tokens)
            self._hits.inc(cached_tokens(record))
        if record.first_token_s is not None:
            self._ttft.observe(record.first_token_s - record.arrival_s)
            self._queue.observe(record.queue_s)
            for part in TTFT_PARTS:
                self._parts.labels(**self._labels, part=part).observe(getattr(record, f"{part}_s"))
        if record.status == "finished" and record.finish_s is not None:
            self._latency.observe(record.finish_s - record.arrival_s)
            self._prompt.observe(record.prompt_tokens)
            self._output.observe(record.output_tokens)
            for earlier, later in pairwise(record.token_times):
                self._itl.observe(later - earlier)
            if len(record.token_times) > 1:
                spent_s = record.token_times[-1] - record.token_times[0]
                self._tpot.observe(spent_s / (len(record.token_times) - 1))

    def count_ignored(self, fields: list[str]) -> None:
        for name in fields:
            self._ignored.labels(**self._labels, field=name if name in _NAMED_FIELDS else "other").inc()

    def count_refused(self, status: int) -> None:
        self._refused.labels(**self._labels, status=str(status)).inc()

    def count_unlogged(self) -> None:
        self._unlogged.inc()

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        family = Histogram(name, text, ("model_name", *labels), buckets=buckets, registry=self.registry)
        return family if labels else family.labels(**self._labels)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        family = Counter(name, text, ("model_name", *labels), registry=self.registry)
        return family if labels else family.labels(**self._labels)


class _EngineCollector(Collector):
    """What the engine's last snapshot says."""

    def __init__(self, engine: EngineClient, model_name: str) -> None:
        self._engine = engine
        self._model = [model_name]

    def collect(self) -> Iterator[Metric]:
        snapshot = self._engine.snapshots[-1]
        state, counters = snapshot.state, snapshot.counters
        yield self._gauge("vllm:num_requests_running", "Requests being computed.", state["running"])
        yield self._gauge("vllm:num_requests_waiting", "Requests queued or loading.", state["waiting"])
        free = state["free_blocks"] / snapshot.hbm_blocks
        yield self._gauge("vllm:kv_cache_usage_perc", "Share of HBM blocks in use, adapters included.", 1.0 - free)
        yield self._lora_info(snapshot)
        hbm = GaugeMetricFamily("libra:hbm_blocks", "HBM blocks by use.", labels=("model_name", "use"))
        for use in ("adapter", "history", "running", "in_flight", "free"):
            hbm.add_metric([*self._model, use], state[f"{use}_blocks"])
        yield hbm
        yield self._gauge("libra:hbm_total_blocks", "HBM blocks in all.", snapshot.hbm_blocks)
        yield self._gauge("libra:host_blocks", "Host blocks in use.", state["host_blocks"])
        yield self._gauge("libra:host_total_blocks", "Host blocks in all.", snapshot.host_blocks)
        yield self._gauge("libra:block_bytes", "Bytes of a block.", snapshot.block_bytes)
        invalid = state["invalid_blocks"]
        yield self._gauge("libra:invalid_kv_blocks", "History KV in HBM without its adapter or prefix.", invalid)
        yield self._residency(snapshot)
        names = {
            "libra:evicted_blocks": ("evicted_blocks", "Blocks evicted from HBM."),
            "libra:dropped_kv_blocks": ("dropped_kv_blocks", "KV blocks dropped from both tiers."),
            "libra:prefetch_bytes": ("prefetch_in_bytes", "Bytes brought in ahead of need."),
            "libra:prefetch_used_bytes": ("prefetch_used_bytes", "Bytes of those that a request then used."),
            "libra:stall_seconds": ("stall_s", "Seconds in which a load kept everybody waiting."),
            "libra:engine_steps": ("num_steps", "Steps computed."),
            "vllm:num_preemptions": ("preemptions", "Requests sent back to the queue."),
        }
        for name, (key, text) in names.items():
            yield self._total(name, text, {(): counters[key]})
        swapped: Totals = {("in",): counters["swap_in_bytes"], ("out",): counters["swap_out_bytes"]}
        yield self._total("libra:swap_bytes", "Bytes moved between host memory or disk and HBM.", swapped, "direction")
        loads: Totals = {("host",): counters["adapter_loads_host"], ("disk",): counters["adapter_loads_disk"]}
        yield self._total("libra:adapter_loads", "Adapters loaded into HBM, by where from.", loads, "tier")

    def _residency(self, snapshot: Snapshot) -> Metric:
        family = GaugeMetricFamily(
            "libra:adapters_resident", "Adapters by the nearest place they are in.", labels=("model_name", "tier")
        )
        tiers = list(snapshot.adapter_tiers.values())
        for tier in TIERS:
            family.add_metric([*self._model, tier], tiers.count(tier))
        return family

    def _lora_info(self, snapshot: Snapshot) -> Metric:
        """vLLM's gauge of adapters with requests: its value says nothing, the labels do."""
        labels = ("model_name", "max_lora", "running_lora_adapters", "waiting_lora_adapters")
        family = GaugeMetricFamily("vllm:lora_requests_info", "Adapters with requests.", labels=labels)
        running, waiting = ",".join(snapshot.running_adapters), ",".join(snapshot.waiting_adapters)
        family.add_metric([*self._model, str(len(snapshot.adapter_tiers)), running, waiting], snapshot.state["time_s"])
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("model_name",))
        family.add_metric(self._model, value)
        return family

    def _total(self, name: str, text: str, values: Totals, *labels: str) -> Metric:
        family = CounterMetricFamily(name, text, labels=("model_name", *labels))
        for of_labels, value in values.items():
            family.add_metric([*self._model, *of_labels], value)
        return family
