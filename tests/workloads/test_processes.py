"""Arrival processes by name: what a spec becomes, and what a bad one is told."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from libra.errors import LibraError
from workloads.arrivals import ArrivalProcess, Renewal
from workloads.demand import ARRIVAL_FORMS, Demand
from workloads.drift import Drift
from workloads.modulated import OnOff, Ramp
from workloads.processes import ARRIVALS, parse_arrivals
from workloads.registry import WORKLOADS
from workloads.servegen import ServeGenClients

TRACES = Path(os.environ.get("LIBRA_TRACES", Path(__file__).parents[2] / ".." / "shared" / "traces"))


@pytest.mark.parametrize(
    ("spec", "burstiness", "process"),
    [
        ("poisson", 1.0, Renewal()),
        ("poisson", 0.5, Renewal(0.5)),
        ("gamma:2", 1.0, Renewal(0.25)),
        ("gamma:0", 1.0, Renewal(math.inf)),
        ("onoff:10,50", 1.0, OnOff(10, 50)),
        ("onoff:10,50,20", 0.5, OnOff(10, 50, 20, 0.5)),
        ("ramp:1,3", 2.0, Ramp(1, 3, 2.0)),
        ("drift:600", 0.5, Drift(600, 0.5)),
        ("servegen:some/folder", 1.0, ServeGenClients(Path("some/folder"))),
        ("servegen:some/folder@7200", 1.0, ServeGenClients(Path("some/folder"), 7200.0)),
    ],
)
def test_specs(spec: str, burstiness: float, process: ArrivalProcess) -> None:
    assert parse_arrivals(spec, burstiness) == process


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("poison", "did you mean 'poisson'?"),
        ("poisson:2", "write gamma:CV for burstier gaps"),
        ("gamma", "--arrivals gamma: write gamma:CV"),
        ("gamma:1,2", "write gamma:CV"),
        ("gamma:inf", "write gamma:CV"),
        ("onoff:10", "write onoff:ON_S,OFF_S or onoff:ON_S,OFF_S,RATIO"),
        ("onoff:1,2,3,4", "write onoff:ON_S,OFF_S"),
        ("onoff:0,5", "bursts and pauses are 0.01 s or longer"),
        ("onoff:1,5,0.5", "RATIO is 0.5"),
        ("ramp:5", "write ramp:FROM,TO"),
        ("ramp:-1,5", "write ramp:FROM,TO"),
        ("ramp:0,0", "not both 0"),
        ("drift:soon", "write drift:PERIOD_S"),
        ("drift:0.1", "PERIOD_S is 1 s or longer"),
        ("azure-functions:", "write azure-functions:FILE"),
        ("servegen", "write servegen:DIR"),
    ],
)
def test_bad_specs_are_told_how_to_be_written(spec: str, message: str) -> None:
    with pytest.raises(LibraError) as raised:
        parse_arrivals(spec)
    assert message in str(raised.value)


def test_the_help_names_every_process() -> None:
    assert all(name in ARRIVAL_FORMS for name in ARRIVALS)


def test_fitted_gaps_take_no_burstiness() -> None:
    with pytest.raises(LibraError, match="leave out --burstiness"):
        parse_arrivals("servegen:folder", 0.5)


def test_clients_become_adapters_of_a_generated_workload(tmp_path: Path) -> None:
    # Two clients for 6,000 s: one sends 9 times as much as the other, and in the second half only.
    for number, rates in enumerate(([0.1] * 10, [0.0] * 5 + [1.8] * 5)):
        rows = [f"{600 * k},{rate},1,{'Gamma,1,1' if rate else ',0,0'}\n" for k, rate in enumerate(rates)]
        (tmp_path / f"chunk-{number}-trace.csv").write_text("".join(rows))
    demand = Demand(2, 4.0, 6000.0, arrivals=f"servegen:{tmp_path}")
    trace = WORKLOADS["translation"].generate(demand)
    assert trace.header.provenance.adapter_source == trace.header.provenance.arrival_source == "mapped"
    assert trace.header.parameters["client_names"] == ["client-1", "client-0"]
    assert trace.request_rate == pytest.approx(4.0, rel=0.02)
    busiest = np.array([request.arrival_s for request in trace.requests if request.adapter == "lora-00"])
    assert len(busiest) == pytest.approx(0.9 * len(trace.requests), rel=0.02)
    assert busiest.min() >= 3000
    with pytest.raises(LibraError, match="choose another start or a shorter run"):
        WORKLOADS["chatbot"].generate(demand)  # its sessions begin before time 0


@pytest.mark.skipif(not TRACES.is_dir(), reason=f"no published traces in LIBRA_TRACES ({TRACES})")
def test_the_published_clients() -> None:
    folder = TRACES / "servegen" / "data" / "reason" / "deepseek-r1"
    trace = WORKLOADS["chatbot"].generate(Demand(20, arrivals=f"servegen:{folder}"))
    assert trace.request_rate == pytest.approx(5.0, rel=0.1)
    assert len({request.adapter for request in trace.requests}) > 15
