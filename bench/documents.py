"""What the files of a run say: summaries and origin as plain JSON values."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from bench.conditions import Conditions
from bench.machine import describe_machine, package_versions, source_revision
from bench.metrics import PolicySummary
from bench.statistics import CONFIDENCE, PERCENTILE_METHOD, Estimate
from libra.engine.record import RunResult

SCHEMA = "libra-run"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunInfo:
    """What meta.json says of a run's origin. ``trace_sha256`` goes from seed to the digest of the trace it replayed;
    ``profile`` are the simulator's coefficients and where they came from, ``settings`` all options by flag name.
    ``warnings`` are the trace's and the run's, ``objectives_ms`` the limits by metric that requests were held to."""

    command: str
    conditions: Conditions
    settings: Mapping[str, Any] = field(default_factory=dict)
    trace_sha256: Mapping[int, str] = field(default_factory=dict)
    profile: Mapping[str, Any] | None = None
    warnings: Sequence[str] = ()
    objectives_ms: Mapping[str, float | None] = field(default_factory=dict)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON in which NaN and the infinities are null, for they are no JSON and break other readers."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """The value in JSON's own types; what JSON does not know becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [finite(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, type):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def summary_row(summary: PolicySummary) -> dict[str, Any]:
    """One row: each metric, followed where there are several seeds by the ends of its interval."""
    row: dict[str, Any] = {"policy": summary.policy, "seeds": len(summary.seeds), "saturated": summary.saturated}
    for name, figure in summary.metrics.items():
        row[name] = figure.mean
        if len(summary.seeds) > 1:
            row |= {f"{name}_ci_low": figure.low, f"{name}_ci_high": figure.high}
    return row


def adapter_rows(summary: PolicySummary) -> Iterable[dict[str, Any]]:
    """One row per adapter with the means over seeds; the intervals are in summary.json."""
    for name, figures in summary.per_adapter.items():
        means = {metric: figure.mean for metric, figure in figures.items()}
        yield {"policy": summary.policy, "adapter": name, **means}


def summary_document(summaries: Sequence[PolicySummary]) -> dict[str, Any]:
    """summary.json: policy -> figures, and how they were computed."""
    return {
        "schema_version": SCHEMA_VERSION,
        "percentile_method": PERCENTILE_METHOD,
        "std": "population",
        "interval": f"{CONFIDENCE:.0%} Student-t over seeds",
        "policies": {summary.policy: _policy_document(summary) for summary in summaries},
    }


def _policy_document(summary: PolicySummary) -> dict[str, Any]:
    """vLLM's flat keys hold the means; ``intervals`` has [low, high] per key and is null with one seed."""
    return {
        "label": summary.policy,
        "caption": summary.caption,
        "complete": summary.complete,
        "seeds": list(summary.seeds),
        "saturated": summary.saturated,
        "saturated_seeds": list(summary.saturated_seeds),
        "worst_adapter": summary.worst_adapter,
        **_means(summary.metrics),
        "intervals": _intervals(summary.metrics),
        "per_seed": {str(seed): metrics for seed, metrics in summary.per_seed.items()},
        "per_adapter": {
            name: {**_means(figures), "intervals": _intervals(figures)} for name, figures in summary.per_adapter.items()
        },
    }


def _means(figures: Mapping[str, Estimate]) -> dict[str, float | None]:
    return {name: figure.mean for name, figure in figures.items()}


def _intervals(figures: Mapping[str, Estimate]) -> dict[str, list[float | None]] | None:
    known = {name: [figure.low, figure.high] for name, figure in figures.items() if figure.low is not None}
    return known or None


def meta_document(results: Sequence[RunResult], info: RunInfo, partial: bool, rows_sha256: str) -> dict[str, Any]:
    """meta.json: everything needed to run the command again and to tell whether the rows are still its rows."""
    partial = partial or not all(result.complete for result in results)
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": info.command,
        "partial": partial,
        "complete": not partial,
        "policies": list(dict.fromkeys(result.policy for result in results)),
        "seeds": list(dict.fromkeys(result.seed for result in results)),
        "devices": list(dict.fromkeys(result.device for result in results)),
        "captions": list(dict.fromkeys(result.caption for result in results)),
        "conditions": {**asdict(info.conditions), "cache_fraction": info.conditions.cache_fraction},
        "settings": dict(info.settings),
        "runs": [
            {"policy": result.policy, "seed": result.seed, "complete": result.complete, **result.extra}
            for result in results
        ],
        "trace_sha256": {str(seed): digest for seed, digest in info.trace_sha256.items()},
        "profile": None if info.profile is None else dict(info.profile),
        "warnings": list(info.warnings),
        "objectives_ms": dict(info.objectives_ms),
        "rows_sha256": rows_sha256,
        "source": source_revision(),
        "versions": package_versions(),
        "machine": describe_machine(),
    }
