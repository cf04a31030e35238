"""Fig. 12 to 14: where the time to the first token goes, and what HBM is used for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from bench.reproduce.cells import Case, Cell
from bench.reproduce.figure import compare
from bench.reproduce.ratios import PART_NAMES, PARTS, Setting, as_change, mean_level, ratio_of_lists
from bench.reproduce.rows import FigureRow, figure_row, judge
from bench.reproduce.rules import MIDDLE_LOAD, SYSTEMS
from bench.reproduce.store import Result
from bench.reproduce.study import Study, crossed
from bench.statistics import Estimate, estimate
from bench.table_layout import SATURATED

OURS, BASELINES = SYSTEMS[0], SYSTEMS[1:]
ALL = "all scenarios"


def _settings(study: Study) -> list[Setting]:
    return [(case, MIDDLE_LOAD) for case in study.scale.study]


@dataclass(frozen=True)
class Breakdown:
    """TTFT in parts, and how much of the prompts is computed."""

    number: str = "12"
    title: str = "TTFT in parts"
    says: str = (
        "TTFT = queue + adapter cold start + KV cold start (HPCA, Fig. 12); prefill computes 1.38x (vLLM) and 1.87x "
        "(S-LoRA) of ELORA's (section VIII)"
    )

    def cases(self, study: Study) -> list[Case]:
        return list(study.scale.study)

    def cells(self, study: Study) -> list[Cell]:
        return crossed(study, study.scale.study, SYSTEMS, (MIDDLE_LOAD,))

    def rows(self, study: Study) -> list[FigureRow]:
        return list(chain(self._computed(study), self._parts(study)))

    def _computed(self, study: Study) -> Iterator[FigureRow]:
        for baseline, paper in (("vllm", 1.38), ("slora", 1.87)):
            policies = (baseline, OURS)
            yield from compare(study, self.number, ALL, _settings(study), "computed_prompt_share", policies, "x", paper)

    def _parts(self, study: Study) -> Iterator[FigureRow]:
        for case in study.scale.study:
            for policy in SYSTEMS:
                results = study.results(case, policy)
                state = SATURATED if any(result["saturated"] for result in results) else ""
                for part in PARTS if results else ():
                    level = mean_level([results], f"mean_{part}_ms")
                    metric = f"{PART_NAMES[part]}, {policy}"
                    yield figure_row(self.number, case.name, metric, "ms", level, None, state)


@dataclass(frozen=True)
class HbmUse:
    """How full HBM is, how often it has what is asked for, and how much of it is of no use."""

    number: str = "13"
    title: str = "HBM use, hit rates and invalid KV"
    says: str = (
        "GPU memory use 1.2x and 2.6x, hit rate 1.3x and 3.4x of vLLM's and S-LoRA's (HPCA, Fig. 13); 42.4 % of vLLM's "
        "KV is invalid (section III)"
    )

    def cases(self, study: Study) -> list[Case]:
        return list(study.scale.study)

    def cells(self, study: Study) -> list[Cell]:
        return crossed(study, study.scale.study, SYSTEMS, (MIDDLE_LOAD,))

    def rows(self, study: Study) -> list[FigureRow]:
        rows: list[FigureRow] = []
        papers = {"hbm_util": (1.2, 2.6), "hit_rate": (1.3, 3.4)}
        for metric, numbers in papers.items():
            note = (
                "mean of adapter and KV hits: the paper does not say how it adds them" if metric == "hit_rate" else ""
            )
            for baseline, paper in zip(BASELINES, numbers, strict=True):
                pair_of = (OURS, baseline)
                rows += compare(study, self.number, ALL, _settings(study), metric, pair_of, "x", paper, note)
        for policy in SYSTEMS:
            results = [found for case, load in _settings(study) if (found := study.results(case, policy, load))]
            invalid = mean_level(results, "invalid_kv_ratio", 100)
            if invalid.mean is not None:
                stated = 42.4 if policy == "vllm" else None
                rows.append(figure_row(self.number, ALL, f"invalid KV, {policy}", "% of history", invalid, stated))
        return rows


# Phases of the paper's 1,800 s in hundreds of seconds, and what it says happens in them.
PHASES = (
    (0, 4, "prefetches all LoRAs"),
    (4, 9, "keeps history KV"),
    (9, 13, "evicts history KV for running KV"),
    (13, 18, "grows the LoRA share"),
)
RISING = "ramp:0.4,1.6"


@dataclass(frozen=True)
class HbmTimeline:
    """What HBM holds while the load rises fourfold, by the phases of the paper's timeline."""

    number: str = "14"
    title: str = "HBM over time"
    says: str = (
        "0-400 s prefetch all LoRAs; 400-900 s keep history KV; 900-1300 s evict it for running KV; 1300-1800 s grow "
        "the LoRA share (HPCA, Fig. 14). Its load over time is not published; ours rises from 0.4 to 1.6 of the mean"
    )

    def cases(self, study: Study) -> list[Case]:
        return [replace(study.scale.study[0], arrivals=RISING)]

    def cells(self, study: Study) -> list[Cell]:
        (case,) = self.cases(study)
        return study.cells_of_kind("timeline", case, OURS)

    def rows(self, study: Study) -> list[FigureRow]:
        (case,) = self.cases(study)
        results = study.results_of_kind("timeline", case, OURS)
        if not results:
            return []
        name = f"{case.name}, load rising"
        rows = []
        for start, end, doing in PHASES:
            for use in ("adapter", "history", "running"):
                share = estimate([100 * value for value in _phase(results, use, start, end)])
                metric = f"{use} share of HBM, {100 * start}-{100 * end} s of 1800"
                rows.append(figure_row(self.number, name, metric, "% of HBM", share, None, f"paper: {doing}"))
        rows.append(self._trend(results, name, "history", (4, 9), (9, 13), -1.0))
        rows.append(self._trend(results, name, "adapter", (9, 13), (13, 18), 1.0))
        return rows

    def _trend(
        self, results: list[Result], name: str, use: str, before: tuple[int, int], after: tuple[int, int], sign: float
    ) -> FigureRow:
        """How a share changes from one phase to the next; the paper gives the direction alone."""
        change: Estimate = as_change(ratio_of_lists(_phase(results, use, *after), _phase(results, use, *before)))
        metric = f"{use} share, {100 * after[0]}-{100 * after[1]} s against the phase before"
        row = figure_row(self.number, name, metric, "%", change, None, f"paper: {'rises' if sign > 0 else 'falls'}")
        return replace(row, same_sign=judge("%", change, sign))


def _phase(results: list[Result], use: str, start: int, end: int) -> list[float]:
    """A share's mean over a phase, by seed."""
    return [sum(json.loads(result["timeline"])[use][start:end]) / (end - start) for result in results]
