"""What bounds the peak load of libra and fastlibra in cells of `libra reproduce --gain`, and how much there is to have.

`python -m bench.peak_limits` searches peaks in steps of 2 % from the committed ones, which are in steps of 10 %, and
looks at each policy's run at the lowest rate that fails. Beside them stand what no cache policy passes: where HBM holds
less than the working set, libra's peak with perfect victims; and the peaks of ten times the working set behind a link
without end. Writes cells.csv, limits.csv and README.md; what is there is not run again.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.machine import source_revision
from bench.metrics import MeasureOptions, measure
from bench.output import csv_text
from bench.peak_limits_table import readme_text
from bench.peak_watch import Watch
from bench.platform import open_platform
from bench.reproduce.cells import Case, Cell
from bench.reproduce.gain import LIBRA, PUBLISHED, Gain
from bench.reproduce.policies import CLAIRVOYANT_IN_TIME, policy_of
from bench.reproduce.rules import GAIN
from bench.reproduce.simulate import describe, run_cell, settings_of
from bench.reproduce.store import CELLS_CSV, Store
from bench.reproduce.study import Study
from bench.setup import prepare
from bench.study_output import replace_text
from libra.engine.replay import replay
from libra.errors import LibraError

OUT, COMMITTED = Path("results/peak-limits"), Path("results/libra/cells.csv")
CACHES = (0.1, 1.5)
TOLERANCE, STRIDE = 0.02, 4
OURS, PERFECT = (PUBLISHED, LIBRA), (CLAIRVOYANT_IN_TIME.name,)
# Memory that holds everything, and transfers of nothing but their latency.
ENDLESS_CACHE, ENDLESS_LINK_GBPS = 10.0, 1e5
LIMITS_CSV, README = "limits.csv", "README.md"


def endless(case: Case) -> Case:
    """The case with memory and link for everything: what is left is computing, and seats in the batch."""
    return replace(case, cache=ENDLESS_CACHE, host=None, host_gib=math.inf, link_gbps=ENDLESS_LINK_GBPS)


def plan(study: Study, cases: Sequence[Case]) -> list[Cell]:
    """Searches from fastlibra's committed peak, for its first seed: of the policies themselves, with endless memory for
    each workload, and of perfect victims where HBM is small. Raises LibraError where ``study`` has no such peak."""
    starts = [_fine(study, case) for case in cases]
    highest = {start.case.workload: start for start in sorted(starts, key=lambda start: start.rate)}
    freed = [replace(start, case=endless(start.case)) for start in highest.values()]
    small = [start for start in starts if start.case.cache is not None and start.case.cache < 1]
    own, perfect = product(starts, OURS), product(small, PERFECT)
    return [replace(start, policy=policy) for start, policy in chain(own, product(freed, OURS), perfect)]


def _fine(study: Study, case: Case) -> Cell:
    coarse = study.peak_cells(case, PUBLISHED)[0]
    result = study.store.get(coarse)
    if result is None or result["peak_load_rps"] is None:
        raise LibraError(f"{study.store.path}: has no peak of {PUBLISHED} in {case}; name the cells of --gain")
    # Where the coarse search gave up below the peak, that may be far.
    stride = STRIDE if result["fails_at_rps"] else 0
    return replace(coarse, rate=result["peak_load_rps"], tolerance=TOLERANCE, stride=stride)


def look(cell: Cell, rate: float) -> dict[str, Any]:
    """A run of ``cell`` at ``rate``: mean TTFT, and what the run is short of from the warm-up to the last arrival."""
    settings = settings_of(cell, rate)
    platform = open_platform(settings)
    setup = prepare(settings, platform, cell.seed)
    (policy,) = policy_of(cell.policy).candidates
    engine = platform.engine(policy, setup.adapters, setup.sizes)
    watch = Watch(engine, platform.profile() or {}, settings.warmup_s, setup.trace.requests[-1].arrival_s)
    result = replay(engine, setup.trace.requests, cell.seed, watch)
    metrics = measure(result, MeasureOptions(warmup_s=settings.warmup_s)).metrics
    about = {name: describe(cell)[name] for name in ("key", "workload", "cache", "host_gib", "policy", "seed")}
    ttft = {name: metrics[name] for name in ("mean_ttft_ms", "mean_queue_ms", "mean_prefill_ms")}
    return {**about, "rate": rate, **ttft, **watch.averages()}


def looks(store: Store, cells: Sequence[Cell], path: Path) -> Iterator[dict[str, Any]]:
    """What the policies' own runs are short of at the lowest rate that fails; those in ``path`` are taken from it."""
    known = {row["key"]: row for row in _rows(path)} if path.is_file() else {}
    for cell in cells:
        result = store.get(cell)
        if cell.policy in OURS and cell.case.cache != ENDLESS_CACHE and result and result["fails_at_rps"]:
            yield known.get(cell.key) or look(cell, result["fails_at_rps"])


def rendered(path: Path) -> str:
    """What README.md of ``path`` must say by the rows beside it."""
    return readme_text(_rows(path / LIMITS_CSV), _rows(path / CELLS_CSV), ENDLESS_CACHE)


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main(
    out: Annotated[Path, typer.Option(help="Directory for cells.csv, limits.csv and README.md.")] = OUT,
    committed: Annotated[Path, typer.Option(help="The cells.csv of libra reproduce --gain.")] = COMMITTED,
    cache: Annotated[list[float] | None, typer.Option(help="Cells of this cache only; may be given again.")] = None,
) -> None:
    """Runs what is missing and writes the tables."""
    study, store = Study(GAIN, Store(committed)), Store(out / CELLS_CSV)
    cells = plan(study, [case for case in Gain().cases(study) if case.cache in (cache or CACHES)])
    commit = source_revision()["commit"]
    for cell in cells:
        if cell not in store:
            store.add({**run_cell(cell), "commit": commit})
    store.arrange(cells)
    replace_text(out / LIMITS_CSV, csv_text(list(looks(store, cells, out / LIMITS_CSV))))
    replace_text(out / README, rendered(out))


if __name__ == "__main__":
    typer.run(main)
