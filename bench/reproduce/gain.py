"""libra against fastlibra over a grid: the share of the gap to clairvoyant that it closes, and peak load."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path

from bench.format import compact
from bench.reproduce.cells import Case, Cell
from bench.reproduce.figure import compare
from bench.reproduce.policies import CLAIRVOYANT_IN_TIME
from bench.reproduce.ratios import Setting, as_change, mean_log_ratios, mean_ratio, pair, ratio_of_lists
from bench.reproduce.rows import FigureRow, figure_row
from bench.reproduce.rules import SCENARIOS
from bench.reproduce.study import Study, crossed
from bench.statistics import Estimate, estimate

LIBRA, PUBLISHED, BEST = POLICIES = ("libra", "fastlibra", "clairvoyant")
TTFT = "mean_ttft_ms"
GRID = "whole grid"
CACHES = (0.1, 0.4, 1.5)
# As shares of the working set; infinity holds everything.
HOSTS = (0.5, math.inf)
LOADS = (0.3, 0.65, 1.0)
# For the requests of a file: one setting of cache and load.
TRACE_CACHE, TRACE_LOAD = 0.3, 0.65
# Perfect victims on libra's timing: at one load only, which says enough.
IN_TIME, IN_TIME_LOAD = CLAIRVOYANT_IN_TIME.name, 0.65


@dataclass(frozen=True)
class Gain:
    """``traces``: files whose requests are run too, beside the grid, with adapters drawn where they have none."""

    traces: tuple[Path, ...] = ()
    number: str = "libra"
    title: str = "libra against fastlibra"
    says: str = "nothing: the policy is ours. The aim: TTFT -20 %, peak +15 %, +2 % in the worst cell, half of the gap"

    def cases(self, study: Study) -> list[Case]:
        return list(dict.fromkeys(case for case, _ in (*self._grid(), *self._files())))

    def cells(self, study: Study) -> list[Cell]:
        runs = (
            crossed(study, (case,), (LIBRA, PUBLISHED, *_bounds((case, load))), (load,))
            for case, load in (*self._grid(), *self._files())
        )
        peaks = (study.peak_cells(case, policy) for case in self.cases(study) for policy in (LIBRA, PUBLISHED))
        return list(chain(*runs, *peaks))

    def rows(self, study: Study) -> list[FigureRow]:
        return list(
            chain(
                self._parts(study),
                self._worst(study),
                self._gap(study),
                self._misses(study),
                self._peaks(study),
                self._by_cell(study),
            )
        )

    def _grid(self) -> list[Setting]:
        return [
            (_on(Case(scenario), cache, host), load)
            for scenario, cache, host, load in product(SCENARIOS, CACHES, HOSTS, LOADS)
        ]

    def _files(self) -> list[Setting]:
        cases = (Case(path.name.partition(".")[0], trace=path) for path in self.traces)
        return [(_on(case, TRACE_CACHE, host), TRACE_LOAD) for case, host in product(cases, HOSTS)]

    def _groups(self) -> list[tuple[str, list[Setting]]]:
        """The grid, and its parts by each of its sides."""
        grid = self._grid()
        parts = [(GRID, grid)]
        parts += [(name, [s for s in grid if s[0].workload == name]) for name in SCENARIOS]
        parts += [(f"cache {size:g}", [s for s in grid if s[0].cache == size]) for size in CACHES]
        parts += [(f"load {load:g}", [s for s in grid if s[1] == load]) for load in LOADS]
        parts += [(_host(size), [s for s in grid if (s[0].host or math.inf) == size]) for size in HOSTS]
        return parts

    def _parts(self, study: Study) -> Iterator[FigureRow]:
        for name, settings in self._groups():
            for policy in (LIBRA, *_bounds(*settings)):
                yield from compare(study, self.number, name, settings, TTFT, (policy, PUBLISHED), "%")

    def _worst(self, study: Study) -> Iterator[FigureRow]:
        """The cell in which libra is furthest behind, and in how many it gains and loses what the aim names."""
        stable: list[tuple[float, Setting, Estimate]] = []
        saturated: list[tuple[float, Setting, Estimate]] = []
        for setting in self._grid():
            pairs = pair(study, [setting], LIBRA, PUBLISHED)
            change = as_change(mean_ratio([*pairs.stable, *pairs.saturated], TTFT))
            if change.mean is not None:
                (stable if pairs.stable else saturated).append((change.mean, setting, change))
        if stable:
            _, setting, change = max(stable, key=lambda found: found[0])
            note = _cell_name(study, setting)
            yield figure_row(self.number, "worst stable cell", f"TTFT, {LIBRA} vs {PUBLISHED}", "%", change, None, note)
        for words, limit in (("at least 20 % lower", -20.0), ("not more than 2 % higher", 2.0)):
            for state, found in (("stable", stable), ("SATURATED", saturated)):
                share = estimate([sum(mean <= limit for mean, _, _ in found)] if found else [])
                note = f"of {len(found)} {state} cells"
                if found:
                    yield figure_row(self.number, GRID, f"TTFT {words} ({state})", "cells", share, None, note)

    def _gap(self, study: Study) -> Iterator[FigureRow]:
        """How much of the way from fastlibra to perfect victims, in the logarithm of TTFT, by seed."""
        for (name, settings), bound in ((group, bound) for group in self._groups() for bound in _bounds(*group[1])):
            pairs = [pair(study, settings, policy, PUBLISHED).stable for policy in (LIBRA, bound)]
            ours, best = (mean_log_ratios(found, TTFT) for found in pairs)
            if len(pairs[0]) != len(pairs[1]) or not best or max(best) >= 0:
                continue
            share = estimate([100 * a / b for a, b in zip(ours, best, strict=True)])
            yield figure_row(self.number, name, f"gap to {bound} closed", "% of the gap", share)

    def _misses(self, study: Study) -> Iterator[FigureRow]:
        """Missed bytes over the proven bound, each policy on its own runs."""
        for policy in POLICIES:
            by_setting = [
                [math.log(result["miss_bytes"] / result["miss_bound_bytes"]) for result in results]
                for case, load in self._grid()
                if (results := study.results(case, policy, load)) and all(r["miss_bound_bytes"] for r in results)
            ]
            if by_setting:
                seeds = [math.fsum(column) / len(column) for column in zip(*by_setting, strict=True)]
                ratio = ratio_of_lists([math.exp(mean) for mean in seeds], [1.0] * len(seeds))
                yield figure_row(self.number, GRID, f"missed bytes over the bound, {policy}", "x", ratio)

    def _peaks(self, study: Study) -> Iterator[FigureRow]:
        metric = f"peak load, {LIBRA} vs {PUBLISHED}"
        found = []
        for case in self.cases(study):
            ours, theirs = study.peaks(case, LIBRA), study.peaks(case, PUBLISHED)
            if ours is not None and theirs is not None:
                ratio = ratio_of_lists(ours, theirs)
                means = [compact(estimate(peaks).mean) for peaks in (ours, theirs)]
                note = f"{means[0]} and {means[1]} req/s, steps of {study.scale.tolerance:.0%}"
                found.append((case, ratio, note))
        own = [ratio.mean for case, ratio, _ in found if case.trace is None and ratio.mean is not None]
        if own:
            overall = as_change(ratio_of_lists(own, [1.0] * len(own)))
            yield figure_row(self.number, GRID, metric, "%", overall, None, f"interval over {len(own)} cases")
        for case, ratio, note in found:
            yield figure_row(self.number, _case_name(case), metric, "%", as_change(ratio), None, note)

    def _by_cell(self, study: Study) -> Iterator[FigureRow]:
        for setting in (*self._grid(), *self._files()):
            name = _cell_name(study, setting)
            if study.rate(*setting) is None and study.store.get(study.reference_cells(setting[0])[0]) is not None:
                note = f"{PUBLISHED} meets the limit of a peak at no rate"
                yield FigureRow(self.number, name, f"TTFT, {LIBRA} vs {PUBLISHED}", "%", None, note=note)
            for policy in (LIBRA, *_bounds(setting)):
                yield from compare(study, self.number, name, [setting], TTFT, (policy, PUBLISHED), "%")


def _bounds(*settings: Setting) -> tuple[str, ...]:
    """The policies with perfect victims that are run in all of ``settings``."""
    return (BEST, IN_TIME) if all(load == IN_TIME_LOAD for _, load in settings) else (BEST,)


def _on(case: Case, cache: float, host: float) -> Case:
    case = replace(case, cache=cache, load_of=PUBLISHED)
    return replace(case, host_gib=math.inf) if host == math.inf else replace(case, host=host)


def _host(share: float) -> str:
    return "host unbounded" if share == math.inf else f"host {share:g}"


def _case_name(case: Case) -> str:
    return f"{case.workload}, cache {case.cache:g}, {_host(case.host or math.inf)}"


def _cell_name(study: Study, setting: Setting) -> str:
    case, load = setting
    return f"{_case_name(case)}, load {load:g} = {compact(study.rate(case, load))} req/s"
