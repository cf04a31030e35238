"""Results of cells that nobody simulated: figures that are plain functions of the cell."""

import json
from pathlib import Path
from typing import Any

from bench.reproduce.cells import Case, Cell
from bench.reproduce.probe import OVERHEADS
from bench.reproduce.rules import Scale
from bench.reproduce.simulate import HBM_USES, METRICS, TIMELINE_PARTS, describe
from bench.reproduce.store import Store
from bench.reproduce.study import Study

TINY = Scale(
    name="tiny",
    requests=20,
    returns=0.0,
    seeds=2,
    peak_requests=20,
    peak_returns=0.0,
    peak_seeds=2,
    grid_peak_seeds=1,
    tolerance=0.5,
    grid=(Case("chatbot"), Case("translation"), Case("agents")),
    loads=(0.6,),
    study=(Case("chatbot"), Case("agents")),
    study_peaks=(Case("chatbot"),),
    tight_loads=(0.9,),
    controls=(Case("chatbot"),),
    preset=(Case("chatbot", cache=None),),
    adapters_of_oracle=(50,),
    crowds=(1000,),
    spreads=("uniform",),
    others=("clairvoyant",),
    against=("vllm",),
)
# Mean TTFT over fastlibra's; whatever is not named has 1.25 times as much.
RATIOS = {"fastlibra": 1.0, "vllm": 2.0, "slora": 1.5, "libra": 0.9, "clairvoyant": 0.8, "clairvoyant-in-time": 0.75}
PEAKS = {"fastlibra": 12.0, "vllm": 6.0, "libra": 15.0}


def fabricated(cell: Cell) -> dict[str, Any]:
    """A result of which the tests know what must come of it: S-LoRA is saturated in agents, nobody else anywhere."""
    row = describe(cell) | {"fault": "", "cpu_s": 0.5}
    if cell.kind == "peak":
        return row | {"peak_load_rps": PEAKS.get(cell.policy, 8.0), "fails_at_rps": 20.0, "num_probes": 3}
    if cell.kind == "probe":
        return row | dict.fromkeys(OVERHEADS, 0.5)
    ratio = RATIOS.get(cell.policy, 1.25)
    figures = dict[str, Any].fromkeys(METRICS, ratio * (1 + 0.1 * cell.seed))
    shares = {use: [(n + 1) / TIMELINE_PARTS for n in range(TIMELINE_PARTS)] for use in HBM_USES}
    saturated = cell.policy == "slora" and cell.case.workload == "agents"
    return row | figures | {"saturated": saturated, "timeline": json.dumps(shares)}


def tiny_study(path: Path) -> Study:
    """A study of ``TINY`` whose cells are in ``path``."""
    return Study(TINY, Store(path))
