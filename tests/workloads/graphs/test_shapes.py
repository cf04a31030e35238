"""Shapes of call graphs by hand, and the Kolmogorov-Smirnov distance against published values."""

import math
from collections import Counter

import pytest

from workloads.graphs.calls import Callee, CallGraph, Vertex, call_graph
from workloads.graphs.shapes import closeness, graph_shapes, ks_distance, merged_shapes


def graph(**calls: dict[str, int]) -> CallGraph:
    """A graph of services named by letters, from A: ``graph(A={"B": 2})``."""
    return call_graph(
        Vertex("A"),
        {
            Vertex(caller): {Callee(Vertex(callee), "rpc"): times for callee, times in made.items()}
            for caller, made in calls.items()
        },
    )


DIAMOND = graph(A={"B": 1, "C": 3}, B={"D": 2}, C={"D": 1}, D={"E": 1})


def test_shapes_worked_by_hand() -> None:
    assert graph_shapes([DIAMOND]) == {
        "vertices": {5: 1},
        "depth": {4: 1},
        "width": {2: 1},
        "in_degree": {1: 3, 2: 1},
        "out_degree": {0: 1, 1: 3, 2: 1},
        "repeats": {1: 3, 2: 1, 3: 1},
    }


def test_shapes_of_sets_add_up() -> None:
    lone = graph()
    assert graph_shapes([DIAMOND, lone, DIAMOND]) == merged_shapes(map(graph_shapes, ([DIAMOND], [lone], [DIAMOND])))


def test_equal_sets_are_not_apart_and_others_are() -> None:
    shapes = graph_shapes([DIAMOND])
    assert {(row.distance, row.p_value) for row in closeness(shapes, shapes)} == {(0.0, 1.0)}
    rows = {row.feature: row for row in closeness(shapes, graph_shapes([graph(A={"B": 1})]))}
    assert rows["depth"].distance == 1.0
    assert rows["repeats"].distance == pytest.approx(2 / 5)
    assert (rows["vertices"].source_mean, rows["vertices"].generated_mean) == (5, 2)
    assert {row.distance for row in closeness(graph_shapes([graph()]), shapes) if row.feature == "repeats"} == {None}


@pytest.mark.parametrize(("scaled", "tail"), [(1.2238, 0.10), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)])
def test_p_values_are_those_of_the_published_tables(scaled: float, tail: float) -> None:
    """The quantiles of Kolmogorov's distribution, reached with samples so large that no correction is left."""
    size = 10**8
    distance = scaled / math.sqrt(size / 2)
    below = round(size * distance)
    found, p_value = ks_distance(Counter({0: below, 1: size - below}), Counter({1: size}))
    assert found == pytest.approx(distance, rel=1e-3)
    assert p_value == pytest.approx(tail, rel=0.02)
