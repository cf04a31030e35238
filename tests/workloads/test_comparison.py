"""Distances between traces, by hand and on traces made alike and unlike."""

import numpy as np
import pytest

from libra.spec import MODELS
from workloads.comparison import compare_inspections, ks_distance
from workloads.demand import Demand
from workloads.inspection import Inspection, inspect_trace
from workloads.registry import WORKLOADS


def inspected(name: str, **demand: object) -> Inspection:
    options = {"num_adapters": 10, "duration_s": 600.0, **demand}
    return inspect_trace(WORKLOADS[name].generate(Demand(**options)), MODELS["llama3-8b"], (32,), 32)  # type: ignore[arg-type]


def test_ks_by_hand() -> None:
    assert ks_distance(np.array([1, 2, 3, 4]), np.array([3, 4, 5, 6])) == 0.5
    assert ks_distance(np.array([2, 1]), np.array([1, 2, 2, 1])) == 0
    assert ks_distance(np.array([1.0]), np.array([2.0, 3.0])) == 1
    assert ks_distance(np.array([]), np.array([1.0])) is None


def test_a_trace_is_at_no_distance_from_itself() -> None:
    found = inspected("chatbot")
    assert {distance.ks for distance in compare_inspections(found, found).distances} == {0.0}


def test_another_seed_is_near_and_another_scenario_is_not() -> None:
    chatbot = inspected("chatbot")
    near = compare_inspections(chatbot, inspected("chatbot", seed=1))
    far = compare_inspections(chatbot, inspected("agents"))
    assert max(distance.ks or 0 for distance in near.distances) < 0.1
    ks = {distance.quantity: distance.ks or 0 for distance in far.distances}
    assert min(ks["prompt_tokens"], ks["output_tokens"], ks["turns"]) > 0.4


def test_another_rate_moves_gaps_and_not_their_shape() -> None:
    ks = {
        distance.quantity: distance.ks or 0
        for distance in compare_inspections(
            inspected("translation", request_rate=4.0), inspected("translation", request_rate=12.0)
        ).distances
    }
    assert ks["gaps"] == pytest.approx(np.exp(-np.log(3) / 2) - np.exp(-3 * np.log(3) / 2), abs=0.05)
    assert ks["gap_shapes"] < 0.05


def test_popularity_is_compared_by_rank() -> None:
    comparison = compare_inspections(
        inspected("translation", popularity="uniform"), inspected("translation", popularity="identical")
    )
    assert comparison.distances[-1].quantity == "popularity"
    assert comparison.distances[-1].ks == pytest.approx(0.9, abs=0.02)
