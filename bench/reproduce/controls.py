"""The controls that the paper lacks, as one table: each mechanism by itself, and every setting it does not state."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

from bench.format import compact
from bench.reproduce.cells import Case, Cell
from bench.reproduce.figure import compare
from bench.reproduce.policies import HALF_LIVES_S, READINGS, TAUS_S, TICKS_S
from bench.reproduce.ratios import PART_NAMES, PARTS, Setting, mean_level, mean_ratio, pair
from bench.reproduce.rows import FigureRow, figure_row
from bench.reproduce.rules import MIDDLE_LOAD
from bench.reproduce.study import Study, crossed
from bench.table_layout import SATURATED

OURS = "fastlibra"
TTFT = "mean_ttft_ms"

# From vLLM to fastlibra, one mechanism at a time, with what each step adds.
LADDER = (
    ("vllm", "static share, two LRUs, blocking loads"),
    ("vllm-async", "loads overlap"),
    ("vllm-offload", "host tier for KV written at finish"),
    ("offload-on-evict", "written at eviction instead"),
    ("no-tree-lru", "one pool without padded slots"),
    ("tree-lru", "dependency tree"),
    ("wos", "swapper with prefetch"),
    (OURS, "cost model"),
)
# (group, policies): each against fastlibra.
SWITCHES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("order of eviction", ("order-only", "wos", "tree-lru", "clairvoyant")),
    ("dependency tree", ("no-tree-lru", "wom", "wom-last")),
    ("watermarks 95/70", ("evict-when-full", "no-prefetch")),
    ("host tier for KV", ("no-host-kv", "write-on-finish")),
    ("tick (100 ms)", tuple(f"tick-{1000 * tick_s:g}ms" for tick_s in TICKS_S)),
    ("Eq. 4 (lora_only)", tuple(f"eq4-{reading}" for reading in READINGS)),
    ("tau (5 s)", tuple(f"tau-{tau_s:g}s" for tau_s in TAUS_S)),
    ("half-life (600 s)", tuple(f"half-life-{life_s:g}s" for life_s in HALF_LIVES_S)),
)
WORDS = {
    "wos": "LRU, tree and swapper",
    "tree-lru": "LRU on the tree, no swapper",
    "no-tree-lru": "unified pool without tree, LRU",
    "wom": "cost model without tree",
    "wom-last": "the same, matches count for the deepest node",
    "order-only": "order only: KV leaves first, adapters last",
    "clairvoyant": "next use from the trace",
    "tick-1ms": "tick 1 ms: at every step",
}
# Settings of the machine: (group, unit, field of a case, values beside the rules' own).
MACHINES: tuple[tuple[str, str, str, tuple[float, ...]], ...] = (
    ("cache", "of the working set", "cache", (0.1, 0.2, 0.3, 0.4, 0.75, 1.0)),
    ("host tier", "GiB", "host_gib", (4.0, 16.0, 64.0, math.inf)),
    ("PCIe", "GB/s", "link_gbps", (16.0, 32.0, 128.0)),
    ("block size", "tokens", "block_tokens", (16, 64)),
)
LOADS = (0.3, 0.9, 1.2)


@dataclass(frozen=True)
class Controls:
    """Every control, scenario by scenario."""

    number: str = "controls"
    title: str = "The controls the paper lacks"
    says: str = "nothing: the paper has none of these, and does not state tau, half-life, host tier or load levels"

    def cases(self, study: Study) -> list[Case]:
        return list(study.scale.controls)

    def cells(self, study: Study) -> list[Cell]:
        cases = study.scale.controls
        policies = dict.fromkeys([*(name for name, _ in LADDER), *chain.from_iterable(names for _, names in SWITCHES)])
        machines = [case for base in cases for _, case in _machines(base)]
        return [
            *crossed(study, cases, tuple(policies), (MIDDLE_LOAD,)),
            *crossed(study, machines, (OURS, *study.scale.against), (MIDDLE_LOAD,)),
            *crossed(study, cases, (OURS, *study.scale.against), LOADS),
        ]

    def rows(self, study: Study) -> list[FigureRow]:
        rows: list[FigureRow] = []
        for case in study.scale.controls:
            rows += [*self._ladder(study, case), *self._switches(study, case), *self._settings(study, case)]
        return rows

    def _ladder(self, study: Study, case: Case) -> Iterator[FigureRow]:
        """Mean TTFT of each rung over the rung before, and its part of the whole gain."""
        whole = _log_gain(study, case, LADDER[0][0], OURS)
        for (before, _), (after, adds) in pairwise(LADDER):
            step = _log_gain(study, case, before, after)
            share = "" if step is None or not whole else f"{step / whole:.0%} of the gain from vllm to fastlibra"
            name = f"{case.name}: + {adds}"
            yield from compare(study, self.number, name, [(case, MIDDLE_LOAD)], TTFT, (after, before), "x", None, share)

    def _switches(self, study: Study, case: Case) -> Iterator[FigureRow]:
        for group, names in SWITCHES:
            for name in names:
                label = f"{case.name}: {group}"
                found = compare(study, self.number, label, [(case, MIDDLE_LOAD)], TTFT, (name, OURS), "x")
                for row in found:
                    yield replace(row, metric=row.metric.replace(name, WORDS.get(name, name), 1))

    def _settings(self, study: Study, base: Case) -> Iterator[FigureRow]:
        for label, case in _machines(base):
            yield from self._against(study, f"{base.name}: {label}", (case, MIDDLE_LOAD))
        for load in sorted({*LOADS, MIDDLE_LOAD}):
            yield from self._against(study, f"{base.name}: load {load:g} of vllm's peak", (base, load))

    def _against(self, study: Study, label: str, setting: Setting) -> Iterator[FigureRow]:
        """Its level, and what vllm and LRU on the same tree make of the setting."""
        results = study.results(setting[0], OURS, setting[1])
        if results:
            state = f" ({SATURATED})" if any(result["saturated"] for result in results) else ""
            parts = ", ".join(f"{PART_NAMES[p]} {compact(mean_level([results], f'mean_{p}_ms').mean)}" for p in PARTS)
            yield figure_row(self.number, label, f"TTFT, {OURS}{state}", "ms", mean_level([results], TTFT), None, parts)
        for other in study.scale.against:
            fault = study.fault(setting[0], other, setting[1])
            if fault:
                yield FigureRow(self.number, label, f"TTFT, {other} vs {OURS}", "x", None, note=f"cannot run: {fault}")
            yield from compare(study, self.number, label, [setting], TTFT, (other, OURS), "x")


def _machines(base: Case) -> list[tuple[str, Case]]:
    """(label, case) for every value of every setting."""
    return [
        (f"{group} {'unbounded' if value == math.inf else f'{value:g} {unit}'}", _with(base, field, value))
        for group, unit, field, values in MACHINES
        for value in values
    ]


def _with(case: Case, field: str, value: float) -> Case:
    changes: dict[str, Any] = {field: value}
    return replace(case, **changes)


def _log_gain(study: Study, case: Case, before: str, after: str) -> float | None:
    """How far mean TTFT falls, as a logarithm; None where either is missing."""
    pairs = pair(study, [(case, MIDDLE_LOAD)], after, before)
    ratio = mean_ratio([*pairs.stable, *pairs.saturated], TTFT).mean
    return None if ratio is None else -math.log(ratio)


def carriers(rows: Sequence[FigureRow]) -> list[str]:
    """For each case, which step of the ladder carries how much of the gain, largest first."""
    steps: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        case, plus, adds = row.case.partition(": + ")
        if row.figure == "controls" and plus and row.ours:
            steps.setdefault(case, []).append((row.ours, adds))
    return [
        f"{case}: {', '.join(f'{adds} {ratio:.2f}x' for ratio, adds in sorted(found))}" for case, found in steps.items()
    ]
