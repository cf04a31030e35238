"""Fig. 15 to 17: fastlibra with one thing taken away, and with another ranking."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from bench.reproduce.cells import Case, Cell
from bench.reproduce.figure import compare
from bench.reproduce.ratios import Setting, as_change, mean_level, ratio_of_lists
from bench.reproduce.rows import FigureRow, figure_row
from bench.reproduce.rules import MIDDLE_LOAD, tight
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
# Run wherever those are: what is the least and the most that a ranking can make of it, and our own policy.
ON_THE_TREE = ("order-only", "libra", "clairvoyant")
_LATENCIES = ("mean_ttft_ms", "mean_tpot_ms")


def _groups(study: Study) -> list[tuple[str, list[Setting]]]:
    """What every mechanism is taken away in, by name: the cases of the rules, and tight memory at each of its loads."""
    scale = study.scale
    rules: list[Setting] = [(case, MIDDLE_LOAD) for case in scale.study]
    return [
        (ALL, rules),
        *((f"{ALL}, {_tight(load)}", [(tight(case), load) for case in scale.study]) for load in scale.tight_loads),
    ]


def _tight(load: float) -> str:
    return f"tight memory, {load:g} of fastlibra's own peak"


def _cases(study: Study) -> list[Case]:
    return list(dict.fromkeys(case for _, settings in _groups(study) for case, _ in settings))


def _cells(study: Study, policies: Iterable[str]) -> list[Cell]:
    settings = [setting for _, group in _groups(study) for setting in group]
    names = tuple(policies)
    return list(chain.from_iterable(crossed(study, (case,), names, (load,)) for case, load in settings))


def _ratios(
    study: Study, number: str, policies: Mapping[str, tuple[float | None, float | None]]
) -> Iterator[FigureRow]:
    """Each policy over fastlibra, over all scenarios of a group and, for TTFT, in each of them."""
    for group, settings in _groups(study):
        for name, papers in policies.items():
            for metric, paper in zip(_LATENCIES, papers, strict=True):
                yield from compare(study, number, group, settings, metric, (name, OURS), "x", paper)
    for _, settings in _groups(study):
        for case, load in settings:
            label = f"{case.name}, load {load:g} of {case.load_of}'s peak"
            for name in policies:
                yield from compare(study, number, label, [(case, load)], _LATENCIES[0], (name, OURS), "x")


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
        return [*_cases(study), *study.scale.study_peaks]

    def cells(self, study: Study) -> list[Cell]:
        peaks = (study.peak_cells(case, name) for case in study.scale.study_peaks for name in (OURS, *PAPER))
        return [*_cells(study, (OURS, *PAPER)), *chain.from_iterable(peaks)]

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
        for group, settings in _groups(study):
            for name in ("wom", "wom-last"):
                results = [found for case, load in settings if (found := study.results(case, name, load))]
                level = mean_level(results, "invalid_kv_ratio", 100)
                if level.mean is not None:
                    yield figure_row(self.number, group, f"invalid KV, {name}", "% of history", level, 48.6)


@dataclass(frozen=True)
class Branches:
    """Swapping an adapter with all KV below it."""

    number: str = "16"
    title: str = "BFS: whole branches are swapped"
    says: str = "TTFT 2.29x, TPOT 1.54x, HBM use -29.1 %, PCIe traffic 9.71x (HPCA, section VIII, Fig. 16)"

    def cases(self, study: Study) -> list[Case]:
        return _cases(study)

    def cells(self, study: Study) -> list[Cell]:
        return _cells(study, (OURS, "bfs"))

    def rows(self, study: Study) -> list[FigureRow]:
        pairs = ("bfs", OURS)
        papers = {**PAPER_BFS, "swap_bytes": ("x", PAPER_BFS_TRAFFIC)}
        found = (
            compare(study, self.number, group, settings, metric, pairs, unit, paper)
            for group, settings in _groups(study)
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
        return _cases(study)

    def cells(self, study: Study) -> list[Cell]:
        everywhere = _cells(study, (OURS, *PAPER_RANKINGS, *ON_THE_TREE))
        return [*everywhere, *crossed(study, study.scale.study, study.scale.others, (MIDDLE_LOAD,))]

    def rows(self, study: Study) -> list[FigureRow]:
        own = dict.fromkeys((*ON_THE_TREE, *study.scale.others), (None, None))
        return list(_ratios(study, self.number, {**PAPER_RANKINGS, **own}))
