"""Fig. 11: fastlibra against vLLM and S-LoRA, with tails, peak load and the preset HBM."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import geometric_mean

from bench.format import compact
from bench.reproduce.cells import Case, Cell
from bench.reproduce.figure import compare
from bench.reproduce.ratios import Setting, as_change, ratio_of_lists
from bench.reproduce.rows import FigureRow, figure_row
from bench.reproduce.rules import MIDDLE_LOAD, SYSTEMS
from bench.reproduce.study import Study, crossed
from bench.statistics import estimate

OURS, BASELINES = SYSTEMS[0], SYSTEMS[1:]
# HPCA version, section VIII: changes in per cent against vLLM and S-LoRA.
PAPER = {
    ("mean_ttft_ms", "vllm"): -45.7,
    ("mean_tpot_ms", "vllm"): -37.8,
    ("mean_ttft_ms", "slora"): -43.3,
    ("mean_tpot_ms", "slora"): -31.4,
}
PAPER_PEAK = {"vllm": 78.9, "slora": 49.9}
# TTFT by scenario: the one that the paper singles out, and the others together.
PAPER_SCENARIOS = {"vllm": ("translation", -49.4, -43.8), "slora": ("agents", -53.2, -38.4)}
PAPER_TAILS = {
    ("p99_ttft_ms", "vllm"): -73.8,
    ("p95_ttft_ms", "vllm"): -76.1,
    ("p99_tpot_ms", "vllm"): -61.2,
    ("p95_tpot_ms", "vllm"): -62.1,
    ("p99_ttft_ms", "slora"): -66.1,
    ("p95_ttft_ms", "slora"): -68.7,
    ("p99_tpot_ms", "slora"): -57.3,
    ("p95_tpot_ms", "slora"): -58.9,
}
ALL = "all cases"


@dataclass(frozen=True)
class Latency:
    """Mean TTFT and TPOT over the grid, by scenario and by case."""

    number: str = "11"
    title: str = "TTFT and TPOT against vLLM and S-LoRA"
    says: str = (
        "TTFT -45.7 % and TPOT -37.8 % against vLLM, -43.3 % and -31.4 % against S-LoRA, averaged over ten send rates "
        "up to its own peak (HPCA, section VIII, Fig. 11); there the baselines are past theirs, here none is at the "
        "loads compared"
    )

    def cases(self, study: Study) -> list[Case]:
        return [*study.scale.grid, *study.scale.preset]

    def cells(self, study: Study) -> list[Cell]:
        grid = crossed(study, study.scale.grid, SYSTEMS, study.scale.loads)
        return [*grid, *crossed(study, study.scale.preset, SYSTEMS, (MIDDLE_LOAD,))]

    def rows(self, study: Study) -> list[FigureRow]:
        return list(chain(self._overall(study), self._by_scenario(study), self._preset(study), self._by_case(study)))

    def _settings(self, study: Study) -> list[Setting]:
        return [(case, load) for case in study.scale.grid for load in study.scale.loads]

    def _overall(self, study: Study) -> Iterator[FigureRow]:
        for (metric, baseline), paper in PAPER.items():
            yield from compare(study, self.number, ALL, self._settings(study), metric, (OURS, baseline), "%", paper)

    def _by_scenario(self, study: Study) -> Iterator[FigureRow]:
        for baseline, (scenario, paper, paper_others) in PAPER_SCENARIOS.items():
            own = [setting for setting in self._settings(study) if setting[0].workload == scenario]
            others = [setting for setting in self._settings(study) if setting[0].workload != scenario]
            pair = (OURS, baseline)
            yield from compare(study, self.number, scenario, own, "mean_ttft_ms", pair, "%", paper)
            yield from compare(
                study, self.number, f"all but {scenario}", others, "mean_ttft_ms", pair, "%", paper_others
            )

    def _preset(self, study: Study) -> Iterator[FigureRow]:
        settings: list[Setting] = [(case, MIDDLE_LOAD) for case in study.scale.preset]
        for (metric, baseline), paper in PAPER.items():
            case = "preset HBM, which holds all adapters"
            yield from compare(study, self.number, case, settings, metric, (OURS, baseline), "%", paper)

    def _by_case(self, study: Study) -> Iterator[FigureRow]:
        for case, load in self._settings(study):
            for metric, baseline in PAPER:
                name = f"{case.name}, load {load:g} = {compact(study.rate(case, load))} req/s"
                yield from compare(study, self.number, name, [(case, load)], metric, (OURS, baseline), "%")


@dataclass(frozen=True)
class Tails:
    """P95 and P99 of the runs of Fig. 11."""

    number: str = "tails"
    title: str = "P95 and P99 against vLLM and S-LoRA"
    says: str = "P99/P95: TTFT -73.8/-76.1 % and TPOT -61.2/-62.1 % against vLLM (HPCA, section VIII)"

    def cases(self, study: Study) -> list[Case]:
        return list(study.scale.grid)

    def cells(self, study: Study) -> list[Cell]:
        return crossed(study, study.scale.grid, SYSTEMS, study.scale.loads)

    def rows(self, study: Study) -> list[FigureRow]:
        settings = [(case, load) for case in study.scale.grid for load in study.scale.loads]
        found = (
            compare(study, self.number, ALL, settings, metric, (OURS, baseline), "%", paper)
            for (metric, baseline), paper in PAPER_TAILS.items()
        )
        return list(chain.from_iterable(found))


@dataclass(frozen=True)
class PeakLoad:
    """The highest rate with mean TTFT below 500 ms."""

    number: str = "11-peak"
    title: str = "Peak load against vLLM and S-LoRA"
    says: str = "+78.9 % against vLLM, +49.9 % against S-LoRA: highest rate with mean TTFT < 500 ms (HPCA, Fig. 11)"

    def cases(self, study: Study) -> list[Case]:
        return list(study.scale.grid)

    def cells(self, study: Study) -> list[Cell]:
        return [cell for case in study.scale.grid for name in SYSTEMS for cell in study.peak_cells(case, name)]

    def rows(self, study: Study) -> list[FigureRow]:
        rows: list[FigureRow] = []
        for baseline in BASELINES:
            metric = f"peak load, {OURS} vs {baseline}"
            by_case = {case.name: p for case in study.scale.grid if (p := self._peaks(study, case, baseline))}
            if by_case:
                cases = [_geometric_means(pairs) for pairs in by_case.values()]
                ratio = as_change(ratio_of_lists(*map(list, zip(*cases, strict=True))))
                note = f"interval over {len(by_case)} cases, steps of {study.scale.tolerance:.0%}"
                rows.append(figure_row(self.number, ALL, metric, "%", ratio, PAPER_PEAK[baseline], note))
            for name, pairs in by_case.items():
                ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
                note = f"{compact(estimate(ours).mean)} and {compact(estimate(theirs).mean)} req/s"
                change = as_change(ratio_of_lists(ours, theirs))
                rows.append(figure_row(self.number, name, metric, "%", change, None, note))
        return rows

    def _peaks(self, study: Study, case: Case, baseline: str) -> list[tuple[float, float]]:
        """(ours, theirs) by seed; empty unless both are known."""
        ours, theirs = study.peaks(case, OURS), study.peaks(case, baseline)
        return [] if ours is None or theirs is None else list(zip(ours, theirs, strict=True))


def _geometric_means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return geometric_mean([pair[0] for pair in pairs]), geometric_mean([pair[1] for pair in pairs])
