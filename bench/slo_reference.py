"""What relative objectives are relative to: the same requests without adapters, and one at a time."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from bench.metrics import measure
from bench.platform import Platform
from bench.setup import SeedSetup, run_setup
from bench.slo import Multiple, Objectives
from libra.cache.fastlibra import FASTLIBRA
from libra.errors import LibraError
from libra.request import Request

# Mean latencies that multiples refer to. Waiting is part of the first two, so they are taken at low load (Chameleon's
# 5x, arXiv 2411.17741); the others at the run's own load, without adapters (CaraServe's 1.5x, arXiv 2401.11240).
LOW_LOAD = ("ttft", "e2el")
WITHOUT_ADAPTERS = ("tpot", "tpt")


def without_adapters(requests: Iterable[Request]) -> tuple[Request, ...]:
    """The same requests to the base model."""
    return tuple(replace(request, adapter=None) for request in requests)


def one_at_a_time(requests: Iterable[Request]) -> tuple[Request, ...]:
    """The same requests, each arriving when the one before has ended: the lowest load there is."""
    alone: list[Request] = []
    for request in requests:
        before = (alone[-1].id,) if alone else ()
        alone.append(replace(request, arrival_s=0.0, after=before, delay_s=0.0))
    return tuple(alone)


def resolve(limits: Mapping[str, float | Multiple], platform: Platform, setups: list[SeedSetup]) -> Objectives:
    """Limits in milliseconds. Runs fastlibra on every seed's requests for each reference that is asked for, so that all
    policies of a table are held to the same limits. Raises LibraError when a reference has no such latency."""
    resolved: dict[str, float] = {}
    for names, change in ((LOW_LOAD, one_at_a_time), (WITHOUT_ADAPTERS, without_adapters)):
        factors = {name: limit.factor for name in names if isinstance(limit := limits.get(name), Multiple)}
        if not factors:
            continue
        runs = [
            measure(run_setup(platform, FASTLIBRA, changed, lambda now_s, num_done: None)).metrics
            for changed in (
                replace(setup, trace=replace(setup.trace, requests=change(setup.trace.requests))) for setup in setups
            )
        ]
        for name, factor in factors.items():
            known = [mean for run in runs if (mean := run[f"mean_{name}_ms"]) is not None]
            if not known:
                raise LibraError(f"--goodput {name}:{factor:g}x: the reference run has no {name}; give milliseconds")
            resolved[name] = factor * sum(known) / len(known)
    given = {name: limit for name, limit in limits.items() if not isinstance(limit, Multiple)}
    return Objectives(**(given | resolved))
