"""Measurements as a profile, with all that it was fitted to, and as a table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.format import MISSING, compact
from bench.machine import describe_machine, package_versions, source_revision
from bench.profiling.batches import BatchMaker, adapter_name
from bench.profiling.fit import RATES, UNBOUND, LineFit, Quality, StepFit, fit_line, fit_steps
from bench.profiling.measure import Measurement
from bench.profiling.points import KINDS, StepPoint
from bench.profiling.running_fit import fit_running
from bench.profiling.samples import Samples
from libra.engine.link import Direction
from libra.engine.profile import Profile
from libra.engine.step_demand import StepCounter, StepDemand
from libra.spec import ModelSpec

METHOD = (
    "medians over interleaved rounds; coefficients by least squares of relative errors, none below 0; levels then from "
    "the steps of a running engine; R2 and errors of the seconds they give"
)


@dataclass(frozen=True)
class Subject:
    """What was measured: ``name`` as the user gave it, ``caption`` and ``fallback`` the executor's."""

    name: str
    model: ModelSpec
    device: str
    dtype: str
    caption: str
    fallback: str | None = None


def build_profile(subject: Subject, points: Sequence[StepPoint], measured: Measurement, maker: BatchMaker) -> Profile:
    """The profile that ``measured`` gives. Raises LibraError when there are too few points."""
    steps = fit_steps(_demands(points, maker, subject.model), [one.median_s for one in measured.steps])
    running = fit_running(steps.coefficients, measured.running, measured.between)
    lines = {direction.value: _fit_samples(samples) for direction, samples in measured.copies.items()}
    link = _fit_samples([*measured.copies[Direction.IN], *measured.copies[Direction.OUT]])
    disk = lines[Direction.DISK.value]
    quality = _quality(points, measured, steps) | {"running engine": running.quality}
    coefficients = {name: value + running.total.get(name, 0.0) for name, value in steps.coefficients.items()}
    today = datetime.now(UTC)
    fit: dict[str, Any] = {
        "method": METHOD,
        "measured": today.isoformat(timespec="seconds"),
        "rounds": measured.num_rounds,
        "dtype": subject.dtype,
        "backend_fallback": subject.fallback,
        "kinds": {name: asdict(one) for name, one in quality.items()},
        "links": {name: asdict(line) for name, line in lines.items()},
        "running": {"steps": len(measured.running), "within": running.within, "around": running.around},
        "unbound": [name for name in RATES if coefficients[name] == UNBOUND],
        "steps": _step_rows(points, measured, steps),
        "copies": _copy_rows(measured, lines),
        "machine": describe_machine(),
        "versions": package_versions(),
        "source": source_revision(),
    }
    r_squared = quality["all steps"].r_squared
    return Profile(
        name=f"{subject.device}-{subject.name}-{subject.dtype}",
        source=f"{subject.caption} on {today:%Y-%m-%d}, R2 {MISSING if r_squared is None else f'{r_squared:.3f}'}",
        **coefficients,
        communication_per_step_s=0.0,
        communication_per_token_s=0.0,
        link_bytes_per_s=link.bytes_per_s,
        link_latency_s=link.latency_s,
        disk_bytes_per_s=disk.bytes_per_s,
        disk_latency_s=disk.latency_s,
        r_squared=r_squared,
        model=asdict(subject.model),
        device=subject.device,
        tensor_parallel=1,
        fit=fit,
    )


def _demands(points: Sequence[StepPoint], maker: BatchMaker, model: ModelSpec) -> list[StepDemand]:
    counter = StepCounter(model, maker.adapters)
    names = [[adapter_name(*adapter) for adapter in point.ranks.items()] for point in points]
    return [
        counter.demand(maker.make(point), used if point.first_use else ())
        for point, used in zip(points, names, strict=True)
    ]


def _fit_samples(samples: Sequence[Samples]) -> LineFit:
    return fit_line([one.size for one in samples], [one.median_s for one in samples])


def _quality(points: Sequence[StepPoint], measured: Measurement, steps: StepFit) -> dict[str, Quality]:
    """Per kind of step, then over all."""
    seconds = np.array([one.median_s for one in measured.steps])
    kinds = np.array([point.kind for point in points])
    masks = {kind: kinds == kind for kind in KINDS} | {"all steps": np.ones(len(points), dtype=bool)}
    return {name: Quality.of(seconds[mask], steps.seconds[mask]) for name, mask in masks.items() if mask.any()}


def _step_rows(points: Sequence[StepPoint], measured: Measurement, steps: StepFit) -> list[dict[str, Any]]:
    return [
        {**point.describe(), **_residual(one, float(seconds))}
        for point, one, seconds in zip(points, measured.steps, steps.seconds, strict=True)
    ]


def _copy_rows(measured: Measurement, lines: dict[str, LineFit]) -> list[dict[str, Any]]:
    rows = []
    for direction, samples in measured.copies.items():
        line = lines[direction.value]
        for one in samples:
            fitted = line.latency_s + one.size / line.bytes_per_s
            rows.append({"direction": direction.value, "bytes": one.size, **_residual(one, fitted)})
    return rows


def _residual(samples: Samples, fitted_s: float) -> dict[str, float]:
    return {
        "median_s": samples.median_s,
        "spread": samples.spread,
        "fitted_s": fitted_s,
        "residual_s": fitted_s - samples.median_s,
    }


def profile_table(profile: Profile) -> RenderableType:
    """What was fitted and how well, of a measured profile."""
    fit = profile.fit or {}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("measured", no_wrap=True)
    for column in ("points", "R2", "mean error", "worst error"):
        table.add_column(column, justify="right", no_wrap=True)
    copies = {name: line["quality"] for name, line in fit["links"].items()}
    for name, quality in {**fit["kinds"], **copies}.items():
        r_squared = MISSING if quality["r_squared"] is None else f"{quality['r_squared']:.3f}"
        errors = (f"{quality[key]:.1%}" for key in ("mean_error", "max_error"))
        table.add_row(name, str(quality["num_points"]), r_squared, *errors, style="bold" * (name == "all steps"))
    costs = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    costs.add_column("coefficient", no_wrap=True)
    costs.add_column("", justify="right", no_wrap=True)
    for label, text in _coefficients(profile):
        costs.add_row(label, text)
    caption = f"{profile.name}: {profile.source}, {fit['rounds']} rounds"
    return Group(Text(), Text(caption, style="bold"), table, Text(), costs, Text())


def _coefficients(profile: Profile) -> list[tuple[str, str]]:
    def rate(value: float, unit: str) -> str:
        return "never the limit" if value >= UNBOUND else f"{value / 1e9:.3g} {unit}"

    fit = profile.fit or {}
    links, around = fit["links"], fit["running"]["around"]
    rows = [
        ("every step", f"{compact(profile.step_overhead_s * 1e3)} ms"),
        ("compute", rate(profile.flops_per_s, "Gflop/s")),
        ("memory", rate(profile.memory_bytes_per_s, "GB/s")),
        ("adapters in a step", f"{compact(profile.adapter_overhead_s * 1e3)} ms"),
        ("each prefill chunk", f"{compact(profile.chunk_s * 1e3)} ms"),
        ("each adapter with a chunk", f"{compact(profile.adapter_chunk_s * 1e3)} ms"),
        ("each sequence", f"{compact(profile.sequence_s * 1e6)} us"),
        ("more than one token", f"{compact(profile.several_s * 1e3)} ms"),
        ("each token of context", f"{compact(profile.context_token_s * 1e6)} us"),
        ("each 1,000 pairs with a prefix", f"{compact(profile.prefix_pair_s * 1e9)} us"),
        ("decodes beside chunks", f"{compact(profile.mixed_s * 1e3)} ms"),
        ("adapters in both", f"{compact(profile.adapter_mixed_s * 1e3)} ms"),
        ("each MiB of a decode's adapter", f"{compact(profile.adapter_gather_byte_s * 2**20 * 1e3)} ms"),
        ("first use of an adapter", f"{compact(profile.adapter_first_s * 1e3)} ms"),
        ("each MiB of it", f"{compact(profile.adapter_first_byte_s * 2**20 * 1e3)} ms"),
    ]
    rows += [
        ("between steps, in the above", f"{compact(around['step_overhead_s'] * 1e3)} ms"),
        ("the same before each chunk", f"{compact(around['chunk_s'] * 1e3)} ms"),
    ]
    for name, line in links.items():
        rows.append((name, f"{rate(line['bytes_per_s'], 'GB/s')} after {compact(line['latency_s'] * 1e6)} us"))
    return rows
