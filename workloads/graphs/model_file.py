"""A graph model as a JSON file: versioned, checked when read, equal bytes for equal models."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from libra.errors import LibraError
from workloads.files import replace_file, text_lines
from workloads.graphs.calls import Callee, CallGraph, Vertex
from workloads.graphs.model import EntryModel, GraphModel, Pair, Place, Weighted
from workloads.graphs.shapes import FEATURES

SCHEMA_VERSION = 1
VERSION_FIELD = "libra_graph_model"


def write_model(path: Path, model: GraphModel) -> None:
    """Writes ``model`` whole or not at all. Raises LibraError where the place cannot be written."""
    replace_file(path, [json.dumps(model_document(model), separators=(",", ":"), allow_nan=False) + "\n"])


def read_model(path: Path) -> GraphModel:
    """Raises LibraError, naming the file and the fault, for anything that is not a model this libra can read."""
    try:
        document = json.loads("".join(text_lines(path)))
    except (ValueError, RecursionError) as error:
        raise LibraError(f"{path}: is not JSON ({error}); make it with `libra workload graph`") from None
    if type(document) is not dict or document.get(VERSION_FIELD) != SCHEMA_VERSION:
        raise LibraError(
            f"{path}: is no graph model of version {SCHEMA_VERSION} (field {VERSION_FIELD!r}); "
            "make it with `libra workload graph`"
        )
    try:
        return _model(document)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise LibraError(
            f"{path}: is a damaged graph model ({type(error).__name__}: {error}); make it again with "
            "`libra workload graph`"
        ) from None


def model_document(model: GraphModel) -> dict[str, Any]:
    """The model as JSON: vertices are listed once and named by their places in the list."""
    vertices = sorted(_all_vertices(model.entries))
    place = {vertex: number for number, vertex in enumerate(vertices)}

    def callees(made: Iterable[Callee]) -> list[list[Any]]:
        return [[place[callee.vertex], callee.kind] for callee in made]

    return {
        VERSION_FIELD: SCHEMA_VERSION,
        "name": model.name,
        "counts": dict(model.counts),
        "vertices": [list(vertex) for vertex in vertices],
        "entries": [
            {
                "root": place[entry.root],
                "cluster": entry.cluster,
                "num_graphs": entry.num_graphs,
                "calls": [
                    [place[at.vertex], at.level, [place[other] for other in at.siblings],
                     [[callees(made), count] for made, count in options.counts.items()]]
                    for at, options in entry.calls.items()
                ],
                "times": [
                    [place[pair.caller], *callees([pair.callee])[0], [list(item) for item in options.counts.items()]]
                    for pair, options in entry.times.items()
                ],
                "shapes": {feature: sorted(entry.shapes[feature].items()) for feature in FEATURES},
            }
            for entry in model.entries
        ],
    }  # fmt: skip


def graph_lines(graphs: Iterable[CallGraph]) -> Iterator[str]:
    """Each graph as a line of JSON: the first vertex is the root, edges are [caller, callee, kind, times]."""
    for graph in graphs:
        yield json.dumps({"vertices": graph.vertices, "edges": graph.edges}, separators=(",", ":")) + "\n"


def _all_vertices(entries: Iterable[EntryModel]) -> set[Vertex]:
    found = set()
    for entry in entries:
        found |= {entry.root, *(place.vertex for place in entry.calls)}
        found |= {vertex for pair in entry.times for vertex in (pair.caller, pair.callee.vertex)}
    return found


def _model(document: dict[str, Any]) -> GraphModel:
    vertices = [Vertex(_text(service), _text(interface)) for service, interface in document["vertices"]]
    entries = tuple(_entry(entry, vertices) for entry in document["entries"])
    if not entries:
        raise ValueError("it has no entries")
    counts = {_text(reason): _count(count, 0) for reason, count in dict(document["counts"]).items()}
    return GraphModel(_text(document["name"]), entries, counts)


def _entry(entry: dict[str, Any], vertices: list[Vertex]) -> EntryModel:
    def vertex(place: int) -> Vertex:
        return vertices[_count(place, 0)]

    calls = {
        Place(vertex(at), _count(level, 0), tuple(vertex(other) for other in siblings)): Weighted(
            {
                tuple(Callee(vertex(callee), _text(kind)) for callee, kind in made): _count(count)
                for made, count in options
            }
        )
        for at, level, siblings, options in entry["calls"]
    }
    times = {
        Pair(vertex(caller), Callee(vertex(callee), _text(kind))): Weighted(
            {_count(value): _count(count) for value, count in options}
        )
        for caller, callee, kind, options in entry["times"]
    }
    for place, choices in calls.items():
        for callee in (callee for made in choices.counts for callee in made):
            if Pair(place.vertex, callee) not in times:
                raise ValueError(f"nothing says how often {place.vertex} calls {callee.vertex}")
    shapes = {
        feature: {_count(value, 0): _count(count) for value, count in entry["shapes"][feature]} for feature in FEATURES
    }
    cluster = _count(entry["cluster"], 0)
    return EntryModel(vertex(entry["root"]), _count(entry["num_graphs"]), calls, times, shapes, cluster)


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r} stands where a text should")
    return value


def _count(value: object, minimum: int = 1) -> int:
    if type(value) is not int or value < minimum:
        raise ValueError(f"{value!r} stands where a whole number of {minimum} or more should")
    return value
