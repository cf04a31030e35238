"""Fig. 15 to 17: fastlibra with one thing taken away, and with another ranking."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from bench.reproduce.cells import Case, Cell
from bench.reproduce.figure import compare
from bench.reproduce.ratios import Setting, as_change, mean_level, ratio_of_lists
from bench.reproduce.rows import FigureRow, figure_row
from bench.reproduce.rules import MIDDLE_LOAD
from bench.reproduce.study import Study, crossed

OURS = "fastlibra"
ALL = "all scenarios"
# HPCA version, section VIII: (TTFT x, TPOT x, peak load %) of each ablation against the whole.
PAPER: dict[str, tuple[float, float, float]] = {
    "wom": (1.51, 1.34, -19.3),
    "wom-last": (1.51, 1.34, -19.3),
    "wos": (1.42, 1.29, -18.6),
    "wol": (1.21, 1.11, -9.2),
    "woc": (1.19, 1.09, -7.6),
    "wov": (1.25, 1.15, -10.7),
    "wou": (1.21, 1.14, -9.3),
}
PAPER_BFS = {"mean_ttft_ms": ("x", 2.29), "mean_tpot_ms": ("x", 1.54), "hbm_util": ("%", -29.1)}
PAPER_BFS_TRAFFIC = 9.71
PAPER_RANKINGS = {"rrip": (1.35, 1.27), "hawkeye": (1.38, 1.31), "halp": (1.41, 1.31)}
_LATENCIES = ("mean_ttft_ms", "mean_tpot_ms")


def _settings(study: Study) -> list[Setting]:
    return [(case, MIDDLE_LOAD) for case in study.scale.study]


def _ratios(
    study: Study, number: str, policies: Mapping[str, tuple[float | None, float | None]]
) -> Iterator[FigureRow]:
    for name, papers in policies.items():
        for metric, paper in zip(_LATENCIES, papers, strict=True):
            yield from compare(study, number, ALL, _settings(study), metric, (name, OURS), "x", paper)


@dataclass(frozen=True)
class Ablations:
    """Each mechanism's part of the gain, as the paper takes them away."""

    number: str = "15"
    title: str = "Ablations: one mechanism less"
    says: str = (
        "without dependency 1.51x TTFT, cost model 1.42x, Eq. 4 1.21x, cost 1.19x, visits 1.25x, recency 1.21x (HPCA, "
        "section VIII, Fig. 15 and 16); WOM leaves 48.6 % of the KV invalid"
    )

    def cases(self, study: Study) -> list[Case]:
        return [*study.scale.study, *study.scale.study_peaks]

    def cells(self, study: Study) -> list[Cell]:
        peaks = (study.peak_cells(case, name) for case in study.scale.study_peaks for name in (OURS, *PAPER))
        return [*crossed(study, study.scale.study, (OURS, *PAPER), (MIDDLE_LOAD,)), *chain.from_iterable(peaks)]

    def rows(self, study: Study) -> list[FigureRow]:
        latencies = _ratios(study, self.number, {name: (ttft, tpot) for name, (ttft, tpot, _) in PAPER.items()})
        return [*latencies, *self._peaks(study), *self._invalid(study)]

    def _peaks(self, study: Study) -> Iterator[FigureRow]:
        for case in study.scale.study_peaks:
            whole = study.peaks(case, OURS)
            for name, (_, _, paper) in PAPER.items():
                peaks = study.peaks(case, name)
                if peaks is not None and whole is not None:
                    change = as_change(ratio_of_lists(peaks, whole))
                    note = f"steps of {study.scale.tolerance:.0%}"
                    yield figure_row(self.number, case.name, f"peak load, {name} vs {OURS}", "%", change, paper, note)

    def _invalid(self, study: Study) -> Iterator[FigureRow]:
        for name in ("wom", "wom-last"):
            results = [found for case, load in _settings(study) if (found := study.results(case, name, load))]
            level = mean_level(results, "invalid_kv_ratio", 100)
            if level.mean is not None:
                yield figure_row(self.number, ALL, f"invalid KV, {name}", "% of history", level, 48.6)


@dataclass(frozen=True)
class Branches:
    """Swapping an adapter with all KV below it."""

    number: str = "16"
    title: str = "BFS: whole branches are swapped"
    says: str = "TTFT 2.29x, TPOT 1.54x, HBM use -29.1 %, PCIe traffic 9.71x (HPCA, section VIII, Fig. 16)"

    def cases(self, study: Study) -> list[Case]:
        return list(study.scale.study)

    def cells(self, study: Study) -> list[Cell]:
        return crossed(study, study.scale.study, (OURS, "bfs"), (MIDDLE_LOAD,))

    def rows(self, study: Study) -> list[FigureRow]:
        pairs = ("bfs", OURS)
        papers = {**PAPER_BFS, "swap_bytes": ("x", PAPER_BFS_TRAFFIC)}
        found = (
            compare(study, self.number, ALL, _settings(study), metric, pairs, unit, paper)
            for metric, (unit, paper) in papers.items()
        )
        return list(chain.from_iterable(found))


@dataclass(frozen=True)
class Rankings:
    """Other rankings on the tree, and other systems."""

    number: str = "17"
    title: str = "Other policies"
    says: str = "RRIP/Hawkeye/HALP on the tree: TTFT 1.35/1.38/1.41x, TPOT 1.27/1.31/1.31x (HPCA, Fig. 17)"

    def cases(self, study: Study) -> list[Case]:
        return list(study.scale.study)

    def cells(self, study: Study) -> list[Cell]:
        return crossed(study, study.scale.study, (OURS, *PAPER_RANKINGS, *study.scale.others), (MIDDLE_LOAD,))

    def rows(self, study: Study) -> list[FigureRow]:
        return list(_ratios(study, self.number, {**PAPER_RANKINGS, **dict.fromkeys(study.scale.others, (None, None))}))
