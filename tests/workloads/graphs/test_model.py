"""Models of call graphs: what they draw, how they are kept in files, and which roots they put together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra.errors import LibraError
from tests.workloads.graphs.rows import DEEP, WIDE, traces, write_rows
from workloads.agent_calls import callers_first
from workloads.graphs.built_in import built_in_model
from workloads.graphs.calls import Callee, CallGraph, Vertex, call_graph, reaches
from workloads.graphs.clusters import cluster_entries, find_clusters, mean_silhouette
from workloads.graphs.model import GraphModel, learn_model
from workloads.graphs.model_file import graph_lines, model_document, read_model, write_model
from workloads.graphs.rebuild import read_call_graphs
from workloads.graphs.shapes import closeness, graph_shapes


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> list[CallGraph]:
    path = tmp_path_factory.mktemp("records") / "calls.csv"
    return read_call_graphs([write_rows(path, traces([WIDE, DEEP], 150, seed=2))], 1 << 30)[0]


@pytest.fixture(scope="module")
def model(source: list[CallGraph]) -> GraphModel:
    return cluster_entries(learn_model("made up", source, {"rows": 7}), seed=0)


@st.composite
def sources(draw: st.DrawFn) -> list[CallGraph]:
    """A few graphs over few services, so that they contradict each other in every way."""
    graphs = []
    for _ in range(draw(st.integers(1, 6))):
        calls: dict[Vertex, dict[Callee, int]] = {}
        for caller, callee in draw(st.lists(st.tuples(st.sampled_from("ABCDE"), st.sampled_from("BCDE")), max_size=8)):
            if not reaches(calls, Vertex(callee), Vertex(caller)):
                made = calls.setdefault(Vertex(caller), {})
                made[Callee(Vertex(callee), draw(st.sampled_from(["rpc", "db"])))] = draw(st.integers(1, 3))
        graphs.append(call_graph(Vertex("A"), calls))
    return graphs


@given(graphs=sources(), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_drawn_graphs_are_acyclic_combinations_of_calls_that_occurred(graphs: list[CallGraph], seed: int) -> None:
    model = learn_model("m", graphs)
    known = {
        (graph.vertices[edge.caller], graph.vertices[edge.callee], edge.kind, edge.times)
        for graph in graphs
        for edge in graph.edges
    }
    for drawn in model.draw(np.random.default_rng(seed), 20):
        assert len(callers_first(drawn)) == len(drawn.vertices) == len(set(drawn.vertices))
        assert drawn.root == Vertex("A")
        for edge in drawn.edges:
            assert (drawn.vertices[edge.caller], drawn.vertices[edge.callee], edge.kind, edge.times) in known


def test_a_source_of_one_graph_is_drawn_as_it_is() -> None:
    (graph,) = set(built_in_model(1).draw(np.random.default_rng(0), 5))
    assert graph.vertices == (Vertex("agent-0"),)
    pair = call_graph(Vertex("A"), {Vertex("A"): {Callee(Vertex("B"), "rpc"): 2}})
    assert set(learn_model("m", [pair]).draw(np.random.default_rng(0), 5)) == {pair}


def test_what_is_called_depends_on_who_was_called_beside() -> None:
    """B calls C when A calls it alone and D when A calls it beside E: no other pair may come out."""

    def graph(beside: bool) -> CallGraph:
        called = {Callee(Vertex("B"), "rpc"): 1} | ({Callee(Vertex("E"), "rpc"): 1} if beside else {})
        below = {Callee(Vertex("D" if beside else "C"), "rpc"): 1}
        return call_graph(Vertex("A"), {Vertex("A"): called, Vertex("B"): below})

    drawn = set(learn_model("m", [graph(True), graph(False)]).draw(np.random.default_rng(0), 50))
    assert drawn == {graph(True), graph(False)}


def test_generated_graphs_are_close_to_the_source_and_new(source: list[CallGraph], model: GraphModel) -> None:
    drawn = list(model.draw(np.random.default_rng(0), 2000))
    rows = closeness(graph_shapes(source), graph_shapes(drawn))
    assert all(row.distance is not None and row.distance < 0.08 for row in rows), rows
    assert set(drawn) - set(source), "only copies"
    assert model.source_shapes == graph_shapes(source)


def test_roots_that_call_alike_are_one_cluster(model: GraphModel) -> None:
    clusters = {entry.root.service: entry.cluster for entry in model.entries}
    assert {clusters[f"wide{number}"] for number in range(6)} != {clusters[f"deep{number}"] for number in range(6)}
    assert len(set(clusters.values())) == 2
    assert sum(part.num_graphs for part in model.clusters.values()) == model.num_graphs == 300
    assert all(
        drawn.root.service.startswith("deep")
        for drawn in model.clusters[clusters["deep0"]].draw(np.random.default_rng(0), 30)
    )


def test_clusters_of_points_in_the_plane() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    points = np.repeat(centres, 20, axis=0) + rng.normal(0, 0.1, (60, 2))
    labels = find_clusters(points, np.random.default_rng(1))
    assert len({tuple(set(part.tolist())) for part in labels.reshape(3, 20)}) == 3
    assert mean_silhouette(points, labels) > 0.9
    assert mean_silhouette(np.array([[0.0], [0.0], [3.0], [3.0]]), np.array([0, 1, 0, 1])) == pytest.approx(-0.5)


@pytest.mark.parametrize("points", [np.zeros((9, 3)), np.ones((1, 2)), np.random.default_rng(0).random((2, 2))])
def test_no_structure_is_one_cluster(points: Any) -> None:
    assert find_clusters(points, np.random.default_rng(0)).tolist() == [0] * len(points)


@pytest.mark.parametrize("num_agents", [1, 2, 3, 7, 50, 120])
def test_the_built_in_model_has_every_agent(num_agents: int) -> None:
    model = built_in_model(num_agents)
    assert len(model.services) == num_agents
    assert model == built_in_model(num_agents)


def test_files_give_the_model_back_and_equal_bytes(tmp_path: Path, model: GraphModel) -> None:
    write_model(tmp_path / "m.json", model)
    again = read_model(tmp_path / "m.json")
    assert again == model
    write_model(tmp_path / "n.json", again)
    assert (tmp_path / "m.json").read_bytes() == (tmp_path / "n.json").read_bytes()
    rng = np.random.default_rng
    assert list(again.draw(rng(3), 20)) == list(model.draw(rng(3), 20))


def test_graph_lines_are_json(model: GraphModel) -> None:
    (graph,) = model.draw(np.random.default_rng(0), 1)
    row = json.loads(next(graph_lines([graph])))
    assert [tuple(vertex) for vertex in row["vertices"]] == list(graph.vertices)
    assert [tuple(edge) for edge in row["edges"]] == list(graph.edges)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda row: row.update(libra_graph_model=2), "is no graph model of version 1"),
        (lambda row: row.update(entries=[]), "it has no entries"),
        (lambda row: row.update(entries=[3]), "is a damaged graph model"),
        (lambda row: row.pop("vertices"), "is a damaged graph model (KeyError: 'vertices')"),
        (lambda row: row["vertices"].pop(), "is a damaged graph model (IndexError"),
        (lambda row: row["entries"][0].update(num_graphs=0), "0 stands where a whole number of 1 or more should"),
        (lambda row: row["entries"][0].update(root=-1), "-1 stands where a whole number of 0 or more should"),
        (lambda row: row["entries"][0]["calls"][0].__setitem__(3, []), "a choice needs at least one option"),
        (lambda row: row["entries"][0].update(times=[]), "nothing says how often"),
        (lambda row: row["entries"][0]["shapes"].pop("depth"), "KeyError: 'depth'"),
    ],
)
def test_damaged_models_are_refused_in_one_line(tmp_path: Path, model: GraphModel, damage: Any, message: str) -> None:
    document = json.loads(json.dumps(model_document(model)))
    damage(document)
    path = tmp_path / "m.json"
    path.write_text(json.dumps(document))
    with pytest.raises(LibraError) as raised:
        read_model(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(LibraError, match="is not JSON"):
        read_model(tmp_path / "m.json")
    with pytest.raises(LibraError, match="cannot read"):
        read_model(tmp_path / "absent.json")
