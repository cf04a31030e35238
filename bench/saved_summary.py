"""The summaries and conditions of a saved run, as its files state them: nothing is measured again."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bench.conditions import Conditions
from bench.metrics import PolicySummary
from bench.saved_run import SavedRun
from bench.statistics import Estimate

# What a policy of summary.json holds beside its metrics.
_NOT_METRICS = frozenset(
    {
        *("label", "caption", "complete", "seeds", "saturated", "saturated_seeds", "worst_adapter"),
        *("intervals", "per_seed", "per_adapter"),
    }
)


def saved_summaries(run: SavedRun) -> list[PolicySummary]:
    """One summary per policy, in the order of the file; the inverse of ``summary_document``."""
    return [_summary(policy, document) for policy, document in run.summary["policies"].items()]


def saved_conditions(run: SavedRun) -> Conditions:
    """The conditions of the run, for captions."""
    known = {item.name for item in fields(Conditions)}
    return Conditions(**{name: value for name, value in run.meta["conditions"].items() if name in known})


def _summary(policy: str, document: Mapping[str, Any]) -> PolicySummary:
    return PolicySummary(
        policy=policy,
        caption=document["caption"],
        seeds=tuple(document["seeds"]),
        metrics=_estimates(document),
        per_seed={int(seed): metrics for seed, metrics in document["per_seed"].items()},
        per_adapter={name: _estimates(figures) for name, figures in document["per_adapter"].items()},
        saturated_seeds=tuple(document["saturated_seeds"]),
        worst_adapter=document["worst_adapter"],
        complete=document["complete"],
    )


def _estimates(document: Mapping[str, Any]) -> dict[str, Estimate]:
    intervals = document["intervals"] or {}
    return {
        name: Estimate(mean, *intervals.get(name, (None, None)))
        for name, mean in document.items()
        if name not in _NOT_METRICS
    }
