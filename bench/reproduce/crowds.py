"""Fig. 18 and 19: thousands of adapters, and vLLM with its best static share."""

from dataclasses import dataclass, replace
from statistics import fmean

from bench.reproduce.cells import Case, Cell
from bench.reproduce.figure import compare
from bench.reproduce.policies import SHARES, static_share
from bench.reproduce.rows import FigureRow
from bench.reproduce.rules import MIDDLE_LOAD, SYSTEMS
from bench.reproduce.study import Study, crossed

OURS = "fastlibra"
# vllm with loads that do not stop the step: what overlapping alone does where nearly every request has a load.
OVERLAPPED = "vllm-async"
WAITS = "a load that ends in the middle of a step makes its request wait for the next; one that blocks does not"
MODEL = "llama2-34b"
# TTFT and TPOT of the best static share over ELORA's, by adapters (HPCA version, Fig. 19).
PAPER_ORACLE = {20: (1.409, 1.212), 50: (1.369, 1.320), 100: (1.383, 1.199)}


@dataclass(frozen=True)
class Crowds:
    """1,000 and 2,000 adapters under the paper's distributions."""

    number: str = "18"
    title: str = "1,000 and 2,000 adapters"
    says: str = (
        "TTFT -48.7 %, TPOT -21.9 % with 1,000 and 2,000 adapters, 34B chatbot, Random, Distinct and Skewed (HPCA, "
        "section VIII-I, Fig. 18); the baseline is not named where we read it"
    )

    def cases(self, study: Study) -> list[Case]:
        scale = study.scale
        return [Case("scale", MODEL, number, spread) for number in scale.crowds for spread in scale.spreads]

    def cells(self, study: Study) -> list[Cell]:
        return crossed(study, self.cases(study), (*SYSTEMS, OVERLAPPED), (MIDDLE_LOAD,))

    def rows(self, study: Study) -> list[FigureRow]:
        settings = [(case, MIDDLE_LOAD) for case in self.cases(study)]
        rows: list[FigureRow] = []
        for baseline in SYSTEMS[1:]:
            for metric, paper in (("mean_ttft_ms", -48.7), ("mean_tpot_ms", -21.9)):
                rows += compare(study, self.number, "all", settings, metric, (OURS, baseline), "%", paper)
        pair = (OVERLAPPED, SYSTEMS[1])
        rows += compare(study, self.number, "all", settings, "mean_ttft_ms", pair, "x", None, WAITS)
        for setting in settings:
            for baseline in SYSTEMS[1:]:
                case = setting[0].name
                rows += compare(study, self.number, case, [setting], "mean_ttft_ms", (OURS, baseline), "%")
        return rows


@dataclass(frozen=True)
class OracleShare:
    """vLLM with the static share that is best in hindsight."""

    number: str = "19"
    title: str = "vLLM with the best static share"
    says: str = (
        "the best of shares 0 to 0.5 in steps of 0.05 still has 1.409/1.369/1.383x ELORA's TTFT and 1.212/1.320/1.199x "
        "its TPOT at 20/50/100 adapters, 34B chatbot (HPCA, Fig. 19)"
    )

    def cases(self, study: Study) -> list[Case]:
        return [Case("chatbot", MODEL, number) for number in study.scale.adapters_of_oracle]

    def cells(self, study: Study) -> list[Cell]:
        names = (OURS, *(static_share(share) for share in SHARES))
        return crossed(study, self.cases(study), names, (MIDDLE_LOAD,))

    def rows(self, study: Study) -> list[FigureRow]:
        rows: list[FigureRow] = []
        for case in self.cases(study):
            best = self._best(study, case)
            if best is None:
                continue
            for metric, paper in zip(("mean_ttft_ms", "mean_tpot_ms"), PAPER_ORACLE[case.num_loras], strict=True):
                note = f"best static share {best.removeprefix('vllm@')}"
                found = compare(
                    study, self.number, case.name, [(case, MIDDLE_LOAD)], metric, (best, OURS), "x", paper, note
                )
                rows += [replace(row, metric=row.metric.replace(best, "vllm-oracle")) for row in found]
        return rows

    def _best(self, study: Study, case: Case) -> str | None:
        """The share with the lowest mean TTFT; one too small for the case has none."""
        ttft = {
            name: fmean(result["mean_ttft_ms"] for result in results)
            for name in map(static_share, SHARES)
            if (results := study.results(case, name))
        }
        return min(ttft, key=lambda name: ttft[name], default=None)
