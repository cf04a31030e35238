"""Runs one cell."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from time import process_time
from typing import Any

import numpy as np

from bench.metrics import MeasureOptions, Metrics, measure
from bench.patience import HopelessRun, Patience
from bench.peak import PeakRule, highest_step
from bench.platform import Platform, open_platform
from bench.reproduce.cells import Case, Cell, Kind, workload_of
from bench.reproduce.policies import policy_of
from bench.reproduce.probe import probe
from bench.reproduce.rules import DEVICE, NOMINAL_DURATION_S, NOMINAL_RATE, TTFT_LIMIT_MS, WARMUP_SHARE
from bench.settings import BenchSettings
from bench.setup import SeedSetup, check, prepare, run_setup
from bench.slo import Objectives
from libra.cache.policy import CachePolicy
from libra.engine.config import EngineConfig
from libra.engine.record import RunResult
from libra.errors import LibraError

TIMELINE_SAMPLES, TIMELINE_PARTS = 180, 18
HBM_USES = ("adapter", "history", "running", "in_flight", "free")
METRICS = (
    "mean_ttft_ms",
    "p95_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "p95_tpot_ms",
    "p99_tpot_ms",
    "mean_queue_ms",
    "mean_evict_wait_ms",
    "mean_adapter_load_ms",
    "mean_kv_load_ms",
    "mean_prefill_ms",
    "adapter_hit_rate",
    "kv_hit_rate",
    "kv_host_hit_rate",
    "cold_request_ratio",
    "invalid_kv_ratio",
    "hbm_util",
    "swap_in_bytes",
    "swap_out_bytes",
    "prefetch_useful_ratio",
    "stall_s",
    "completed",
    "rejected",
    "preemptions",
    "queue_growth",
    "miss_bytes",
    "miss_bound_bytes",
    # Made from the ones above, see _derived.
    "hit_rate",
    "computed_prompt_share",
    "swap_bytes",
)

Row = dict[str, Any]


def run_cell(cell: Cell) -> Row:
    """The cell's figures by column of cells.csv. What cannot run says why in ``fault``."""
    start_s = process_time()
    try:
        figures = _KINDS[cell.kind](cell)
    except LibraError as fault:
        figures = {"fault": str(fault)}
    return {**describe(cell), **figures, "cpu_s": round(process_time() - start_s, 3)}


def describe(cell: Cell) -> Row:
    """The columns that say which cell a row is."""
    case = cell.case
    return {
        "key": cell.key,
        "kind": cell.kind,
        "workload": case.workload,
        "model": case.model,
        "num_loras": None if case.trace else case.num_loras,
        "popularity": case.popularity,
        "arrivals": case.arrivals,
        "cache": "preset" if case.cache is None else case.cache,
        "host_gib": _host_text(case),
        "link_gbps": case.link_gbps,
        "block_tokens": case.block_tokens,
        "policy": cell.policy,
        "seed": cell.seed,
        "rate": cell.rate,
        "requests": cell.requests,
        "least_s": cell.least_s,
    }


def _host_text(case: Case) -> str | float:
    if case.host is not None:
        return f"{case.host:g} of the working set"
    return "unbounded" if case.host_gib == float("inf") else case.host_gib


def settings_of(cell: Cell, rate: float) -> BenchSettings:
    """What `libra bench` would be told for a run at ``rate``."""
    case = cell.case
    duration_s = cell.duration_s(rate)
    return BenchSettings(
        **_requests_of(case),
        policies=(cell.policy,),
        device=f"sim:{DEVICE}",
        model=case.model,
        request_rate=rate,
        duration_s=duration_s,
        warmup_s=WARMUP_SHARE * duration_s,
        popularity=case.popularity,
        arrivals=case.arrivals,
        seed=cell.seed,
        hbm_cache_gib=None if case.cache is None else case.cache * nominal_working_set_gib(case),
        host_cache_gib=case.host_gib if case.host is None else case.host * nominal_working_set_gib(case),
        link_gbps=case.link_gbps,
        engine=EngineConfig(block_tokens=case.block_tokens, timeline_s=duration_s / TIMELINE_SAMPLES),
    )


def nominal_working_set_gib(case: Case) -> float:
    """The working set at the nominal rate, the same for all seeds, loads and machines of a case."""
    return _working_set_gib(replace(workload_of(case), cache=None))


@lru_cache(maxsize=64)
def _working_set_gib(case: Case) -> float:
    settings = BenchSettings(
        **_requests_of(case),
        device=f"sim:{DEVICE}",
        model=case.model,
        request_rate=NOMINAL_RATE,
        duration_s=NOMINAL_DURATION_S,
        popularity=case.popularity,
    )
    return prepare(settings, open_platform(settings), 0).working_set_gib


def _requests_of(case: Case) -> dict[str, Any]:
    """Where requests and adapters come from; a file has its own adapters or draws as `libra bench` does."""
    if case.trace is not None:
        return {"trace": case.trace}
    return {"workload": case.workload, "num_loras": case.num_loras}


def _prepare(cell: Cell, rate: float) -> tuple[BenchSettings, Platform, CachePolicy, SeedSetup]:
    """All that a run at ``rate`` needs. Raises LibraError where the policy cannot run there."""
    settings = settings_of(cell, rate)
    platform = open_platform(settings)
    setup = prepare(settings, platform, cell.seed)
    (policy,) = policy_of(cell.policy).candidates
    check(platform, policy, setup, settings.engine)
    return settings, platform, policy, setup


def _simulate(cell: Cell, rate: float, patience_ms: float | None = None) -> tuple[RunResult, BenchSettings, SeedSetup]:
    """One run. Raises HopelessRun where ``patience_ms`` is given and sure to be passed, and LibraError."""
    settings, platform, policy, setup = _prepare(cell, rate)
    patience = None if patience_ms is None else Patience(patience_ms, settings.warmup_s)
    result = run_setup(platform, policy, setup, _unwatched, patience)
    if not result.complete:
        raise KeyboardInterrupt
    return result, settings, setup


def _run(cell: Cell) -> Row:
    result, settings, setup = _simulate(cell, cell.rate)
    bound = setup.bound(result)
    result.counters |= {"miss_bound_bytes": bound.num_bytes, "compulsory_bytes": bound.compulsory_bytes}
    measured = measure(result, MeasureOptions(warmup_s=settings.warmup_s))
    figures = {name: (measured.metrics | _derived(measured.metrics)).get(name) for name in METRICS}
    return {
        "saturated": measured.saturated,
        "cache_gib": setup.cache_gib,
        "working_set_gib": setup.working_set_gib,
        **figures,
        "timeline": json.dumps(_timeline(result.timeline)) if cell.kind == "timeline" else None,
    }


def _probe(cell: Cell) -> Row:
    _, platform, policy, setup = _prepare(cell, cell.rate)
    return dict(probe(platform, policy, setup))


def _derived(metrics: Metrics) -> Metrics:
    """``hit_rate``: mean of adapter and KV hits in HBM. ``computed_prompt_share``: prompt tokens that no tier holds.
    ``swap_bytes``: both directions."""

    def total(*names: str) -> float:
        return sum(metrics[name] or 0.0 for name in names)

    return {
        "hit_rate": total("adapter_hit_rate", "kv_hit_rate") / 2,
        "computed_prompt_share": 1.0 - total("kv_hit_rate", "kv_host_hit_rate"),
        "swap_bytes": total("swap_in_bytes", "swap_out_bytes"),
    }


def _search(cell: Cell) -> Row:
    """The peak of a policy for one seed: the highest rate whose mean TTFT is below the limit. ``cell.stride`` rates are
    taken at a time until the answer changes."""
    rule = PeakRule(Objectives(ttft=TTFT_LIMIT_MS), cell.tolerance)
    num_probes = 0

    def meets(step: int) -> bool:
        nonlocal num_probes
        num_probes += 1
        try:
            result, settings, _ = _simulate(cell, rule.rate(cell.rate, step), TTFT_LIMIT_MS)
        except HopelessRun:
            return False
        ttft_ms = measure(result, MeasureOptions(warmup_s=settings.warmup_s)).metrics["mean_ttft_ms"]
        return ttft_ms is not None and ttft_ms < TTFT_LIMIT_MS

    best, fails = highest_step(meets, cell.stride or rule.doubling)
    return {
        "peak_load_rps": None if best is None else rule.rate(cell.rate, best),
        "fails_at_rps": None if fails is None else rule.rate(cell.rate, fails),
        "num_probes": num_probes,
    }


def _timeline(samples: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Shares of HBM by use, and adapters in HBM, as means over equal parts of the run."""
    columns = {use: np.asarray(samples.get(f"{use}_blocks", []), dtype=float) for use in HBM_USES}
    total = sum(columns.values(), np.zeros(len(columns["free"])))
    if total.size < TIMELINE_PARTS:
        return {}
    shares = {use: values / total for use, values in columns.items()}
    shares["adapters"] = np.asarray(samples["adapters_in_hbm"], dtype=float)
    return {
        use: [round(float(part.mean()), 4) for part in np.array_split(values, TIMELINE_PARTS)]
        for use, values in shares.items()
    }


_KINDS: dict[Kind, Callable[[Cell], Row]] = {"run": _run, "timeline": _run, "peak": _search, "probe": _probe}


def _unwatched(time_s: float, num_done: int) -> None:
    """Nobody watches a single run."""
