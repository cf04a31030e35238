"""Tiny committed traces, for tests only: the generators and arrival processes still make them byte for byte.

After a deliberate change, write them again: ``write_trace(path, WORKLOADS[name].generate(GOLDEN))``.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from workloads.demand import Demand
from workloads.registry import WORKLOADS
from workloads.trace import read_trace, trace_lines

FOLDER = Path(__file__).parent / "data"
GOLDEN = Demand(num_adapters=3, request_rate=0.4, duration_s=40.0, seed=11)
PROCESSES = {"onoff": "onoff:5,10,8", "ramp": "ramp:1,4", "drift": "drift:10"}


@pytest.mark.parametrize("name", [*WORKLOADS, *PROCESSES])
def test_generators_make_the_committed_traces(name: str) -> None:
    path = FOLDER / f"{name}.tests-only.jsonl"
    if name in PROCESSES:
        trace = WORKLOADS["translation"].generate(replace(GOLDEN, arrivals=PROCESSES[name]))
    else:
        trace = WORKLOADS[name].generate(GOLDEN)
    assert path.read_text().splitlines(keepends=True) == list(trace_lines(trace))
    assert read_trace(path) == trace
