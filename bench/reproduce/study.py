"""Which cells the figures need, and their results. A figure asks for cells by case, policy and load alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.reproduce.cells import Case, Cell, Kind, workload_of
from bench.reproduce.rules import MIDDLE_LOAD, NOMINAL_RATE, Scale
from bench.reproduce.store import Result, Store

# How many rates a search takes at a time that starts at the peak of another seed.
STRIDE = 2


@dataclass(frozen=True)
class Study:
    """A scale and what has been run of it."""

    scale: Scale
    store: Store

    def peak_cells(self, case: Case, policy: str) -> list[Cell]:
        """The searches of one policy's peak. Those of further seeds start where the first has ended, so they are known
        when it has."""
        scale = self.scale
        length = (scale.peak_requests, scale.least_peak_s(case))
        first = Cell("peak", case, policy, scale.first_seed, NOMINAL_RATE, *length, scale.tolerance)
        result = self.store.get(first)
        if result is None or result["peak_load_rps"] is None:
            return [first]
        near = replace(first, rate=result["peak_load_rps"], stride=STRIDE)
        return [first, *(replace(near, seed=first.seed + n) for n in range(1, scale.num_peak_seeds(case)))]

    def peaks(self, case: Case, policy: str) -> list[float] | None:
        """Peaks by seed; None while one is missing, or where a policy meets the objective at no rate."""
        results = [self.store.get(cell) for cell in self.peak_cells(case, policy)]
        rates = [None if result is None else result["peak_load_rps"] for result in results]
        return None if None in rates else [float(rate) for rate in rates if rate is not None]

    def reference_cells(self, case: Case) -> list[Cell]:
        """What must be known before the case has rates."""
        return self.peak_cells(reference_of(case), case.load_of)[:1]

    def rate(self, case: Case, load: float) -> float | None:
        """Requests per second at ``load`` of the reference's peak for the first seed; None until that is known."""
        (search,) = self.reference_cells(case)
        result = self.store.get(search)
        return None if result is None or result["peak_load_rps"] is None else round(load * result["peak_load_rps"], 4)

    def run_cells(self, case: Case, policy: str, load: float = MIDDLE_LOAD) -> list[Cell]:
        """One run per seed; none until the case has a rate."""
        rate = self.rate(case, load)
        if rate is None:
            return []
        least_s = self.scale.least_s(case)
        return [Cell("run", case, policy, seed, rate, self.scale.requests, least_s) for seed in self.scale.run_seeds]

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


def reference_of(case: Case) -> Case:
    """Where the peak is searched that a case's loads refer to: vllm's on the machine of the rules, so that all machines
    meet the same requests; another policy's on the case's own."""
    return workload_of(case) if case.load_of == Case.load_of else replace(case, arrivals=Case.arrivals)


def crossed(study: Study, cases: Sequence[Case], policies: Sequence[str], loads: Sequence[float]) -> list[Cell]:
    """Runs of every policy in every case at every load."""
    return [
        cell for case in cases for load in loads for policy in policies for cell in study.run_cells(case, policy, load)
    ]
