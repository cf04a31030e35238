"""From observations to what `libra bench` reports: a RunResult, its figures, and the verdict."""

import math
from collections import Counter
from dataclasses import asdict, dataclass

from bench.columns import BASE_MODEL, adapter_name
from bench.conditions import Conditions
from bench.metrics import TTFT_PARTS, MeasureOptions, PolicySummary, summarise
from bench.replay.check import ArrivalCheck, UsageCheck, check_arrivals, check_usage, count_failures, count_retries
from bench.replay.controller import SentTraffic
from bench.replay.observation import Observation
from bench.replay.scrape import Scraped
from bench.replay.server import Server
from bench.replay.settings import PromptForm, ReplaySettings
from bench.replay.verdict import Facts, Verdict, judge
from bench.slo import parse_objectives
from libra.engine.record import RunResult
from workloads.trace import Trace


@dataclass(frozen=True)
class ReplayOutcome:
    """One replay. ``observations`` are all requests that came to be due, ``counted`` those after the warm-up."""

    trace: Trace
    server: Server
    observations: list[Observation]
    counted: list[Observation]
    result: RunResult
    summary: PolicySummary
    conditions: Conditions
    arrivals: ArrivalCheck
    usage: UsageCheck
    failures: dict[str, int]
    verdict: Verdict

    @property
    def partial(self) -> bool:
        return not self.result.complete


def conclude(
    settings: ReplaySettings, trace: Trace, server: Server, address: str, traffic: SentTraffic, scraped: Scraped | None
) -> ReplayOutcome:
    """Measures a replay and judges it."""
    objectives = parse_objectives(settings.goodput)
    observations = traffic.observations
    counted = [seen for seen in observations if seen.record.arrival_s >= settings.warmup_s]
    unknown = unknown_metrics(observations, scraped)
    options = MeasureOptions(warmup_s=settings.warmup_s, objectives=objectives, unknown=unknown)
    result = _result(settings, trace, server, address, traffic, scraped)
    summary = summarise([result], options)
    arrivals, failures = check_arrivals(counted), count_failures(counted)
    usage = _usage(settings, trace, counted)
    verdict = judge(
        Facts(
            num_requests=len(counted),
            completed=sum(seen.finished for seen in counted),
            complete=traffic.complete,
            failures=failures,
            retried=count_retries(observations),
            num_reconnects=traffic.num_reconnects,
            arrivals=arrivals,
            usage=usage,
            exact_lengths=settings.ignore_eos,
            slo_attainment=summary.mean("slo_attainment"),
            slo_target=settings.slo_target,
            max_send_lag_ms=settings.max_send_lag_ms,
            objectives=str(objectives),
            pages_not_scraped=_pages_not_scraped(scraped) if scraped is not None else 0,
        )
    )
    result.extra |= {
        "verdict": {"valid": verdict.valid, "reasons": verdict.reasons, "notes": list(verdict.notes)},
        "arrival_check": asdict(arrivals),
        "usage_check": asdict(usage),
        "failures": failures,
    }
    conditions = _conditions(settings, trace, server)
    return ReplayOutcome(
        trace, server, observations, counted, result, summary, conditions, arrivals, usage, failures, verdict
    )


def unknown_metrics(observations: list[Observation], scraped: Scraped | None) -> frozenset[str]:
    """Names of figures that this server told nothing about, so that no zero is taken for a measurement."""
    finished = [seen for seen in observations if seen.finished]
    told = [seen.server_times for seen in finished if seen.server_times is not None]
    names = set()
    if not told:
        names |= {f"mean_{part}_ms" for part in TTFT_PARTS}
    if not any(times.adapter_tier for times in told):
        names |= {"adapter_hit_rate", "kv_host_hit_rate", "cold_request_ratio"}
        names |= {f"mean_{part}_ms" for part in ("evict_wait", "adapter_load", "kv_load")}
    if all(seen.told_cached_tokens is None for seen in finished):
        names.add("kv_hit_rate")
    counters = {"swap_in_bytes", "swap_out_bytes", "preemptions", "stall_s", "num_steps"}
    return frozenset(names | (counters - (scraped.counters.keys() if scraped else set())))


def achieved_mix(trace: Trace, observations: list[Observation]) -> dict[str, tuple[int, int]]:
    """Adapter name -> requests asked for by the trace and requests finished, the busiest first."""
    asked = Counter(request.adapter for request in trace.requests)
    finished = Counter(seen.record.adapter for seen in observations if seen.finished)
    ordered = sorted(asked, key=lambda adapter: (-asked[adapter], adapter or ""))
    return {BASE_MODEL if name is None else name: (asked[name], finished[name]) for name in ordered}


def mix_distance(mix: dict[str, tuple[int, int]]) -> float | None:
    """Total variation distance between the shares asked for and achieved: 0 is equal, 1 is disjoint."""
    asked, finished = (sum(column) for column in zip(*mix.values(), strict=True))
    if not asked or not finished:
        return None
    return math.fsum(abs(want / asked - got / finished) for want, got in mix.values()) / 2


def failures_by_adapter(observations: list[Observation]) -> Counter[str]:
    """Adapter name -> requests that were refused, broken off or cancelled."""
    return Counter(
        adapter_name(seen.record) for seen in observations if seen.record.status in ("rejected", "aborted", "cancelled")
    )


def _pages_not_scraped(scraped: Scraped) -> int | None:
    return None if scraped.is_lost else scraped.num_failed


def _usage(settings: ReplaySettings, trace: Trace, counted: list[Observation]) -> UsageCheck:
    asked = {request.id: request.num_prompt_tokens for request in trace.requests}
    told = [seen for seen in counted if seen.finished and seen.told_prompt_tokens is not None]
    exact = settings.prompt is PromptForm.TOKENS
    return check_usage(counted, exact_prompt=exact, asked_prompt_tokens=sum(asked[seen.record.id] for seen in told))


def _result(
    settings: ReplaySettings,
    trace: Trace,
    server: Server,
    address: str,
    traffic: SentTraffic,
    scraped: Scraped | None,
) -> RunResult:
    timeline: dict[str, list[float]] = {}
    counters: dict[str, float] = {}
    if scraped is not None:
        times_s = [time_s - traffic.start_s for time_s in scraped.columns["time_s"]]
        timeline, counters = scraped.columns | {"time_s": times_s}, scraped.counters
    caption = f"measured over HTTP at {address}"
    if settings.prompt is PromptForm.TEXT:
        caption += ", text prompts of about the trace's lengths"
    return RunResult(
        policy=settings.label or server.name,
        seed=settings.seed,
        records=[seen.record for seen in traffic.observations],
        timeline=timeline,
        counters=counters,
        duration_s=traffic.duration_s,
        device=f"http {server.facts.get('device', server.owner)}".strip(),
        caption=caption,
        complete=traffic.complete,
        extra={
            "server": {"owner": server.owner, "base_model": server.base_model, **server.facts},
            "num_reconnects": traffic.num_reconnects,
            "loop": traffic.loop,
            "retried": count_retries(traffic.observations),
            "pages_not_scraped": _pages_not_scraped(scraped) if scraped is not None else None,
        },
    )


def _conditions(settings: ReplaySettings, trace: Trace, server: Server) -> Conditions:
    header = trace.header
    return Conditions(
        workload=header.name,
        model=server.base_model,
        num_adapters=len(header.adapters),
        cache_gib=None,
        request_rate=trace.request_rate,
        duration_s=header.duration_s,
        warmup_s=settings.warmup_s,
    )
