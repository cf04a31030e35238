"""Which cells the figures need, and their results. A figure asks for cells by case, policy and load alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from bench.reproduce.cells import Case, Cell, Kind
from bench.reproduce.rules import MIDDLE_LOAD, NOMINAL_RATE, Scale
from bench.reproduce.store import Result, Store

REFERENCE = "vllm"
# Settings of the machine: a case that differs in these alone sees the requests of the one that does not.
_MACHINE = Case("")


@dataclass(frozen=True)
class Study:
    """A scale and what has been run of it."""

    scale: Scale
    store: Store

    def peak_cells(self, case: Case, policy: str) -> list[Cell]:
        """The searches of one policy's peak."""
        scale = self.scale
        length = (scale.peak_requests, scale.least_peak_s(case.workload))
        return [
            Cell("peak", case, policy, seed, NOMINAL_RATE, *length, scale.tolerance) for seed in range(scale.peak_seeds)
        ]

    def peaks(self, case: Case, policy: str) -> list[float] | None:
        """Peaks by seed; None while one is missing, or where a policy meets the objective at no rate."""
        results = [self.store.get(cell) for cell in self.peak_cells(case, policy)]
        rates = [None if result is None else result["peak_load_rps"] for result in results]
        return None if None in rates else [float(rate) for rate in rates if rate is not None]

    def reference_cells(self, case: Case) -> list[Cell]:
        """What must be known before the case has rates."""
        return self.peak_cells(workload_of(case), REFERENCE)

    def rate(self, case: Case, load: float) -> float | None:
        """Requests per second at ``load`` of vllm's peak; None until that is known."""
        peaks = self.peaks(workload_of(case), REFERENCE)
        return None if peaks is None else round(load * fmean(peaks), 4)

    def run_cells(self, case: Case, policy: str, load: float = MIDDLE_LOAD) -> list[Cell]:
        """One run per seed; none until the case has a rate."""
        rate = self.rate(case, load)
        if rate is None:
            return []
        least_s = self.scale.least_s(case.workload)
        return [Cell("run", case, policy, seed, rate, self.scale.requests, least_s) for seed in range(self.scale.seeds)]

    def cells_of_kind(self, kind: Kind, case: Case, policy: str) -> list[Cell]:
        """Runs that keep more than their figures."""
        return [replace(cell, kind=kind) for cell in self.run_cells(case, policy)]

    def results_of_kind(self, kind: Kind, case: Case, policy: str) -> list[Result]:
        """Their results by seed; empty unless all are there."""
        return self._known(self.cells_of_kind(kind, case, policy))

    def results(self, case: Case, policy: str, load: float = MIDDLE_LOAD) -> list[Result]:
        """Results by seed; empty unless all of them have been run and none had a fault."""
        return self._known(self.run_cells(case, policy, load))

    def _known(self, cells: list[Cell]) -> list[Result]:
        results = [self.store.get(cell) for cell in cells]
        known = [result for result in results if result is not None and not result["fault"]]
        return known if len(known) == len(results) else []

    def fault(self, case: Case, policy: str, load: float = MIDDLE_LOAD) -> str:
        """Why a policy cannot run in a case; empty where it can."""
        results = [self.store.get(cell) for cell in self.run_cells(case, policy, load)]
        return next((result["fault"] for result in results if result is not None and result["fault"]), "")


def workload_of(case: Case) -> Case:
    """The case on the machine of the rules: where the peak is searched that its loads refer to. The preset HBM, and a
    workload of its own, keep theirs."""
    cache = None if case.cache is None else _MACHINE.cache
    machine = {name: getattr(_MACHINE, name) for name in ("host_gib", "link_gbps", "block_tokens", "arrivals")}
    return replace(case, cache=cache, **machine)


def crossed(study: Study, cases: Sequence[Case], policies: Sequence[str], loads: Sequence[float]) -> list[Cell]:
    """Runs of every policy in every case at every load."""
    return [
        cell for case in cases for load in loads for policy in policies for cell in study.run_cells(case, policy, load)
    ]
