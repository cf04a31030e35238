"""A call graph: the calls that one piece of work sets off, as a weighted acyclic graph (DGG, fine-grained graphs)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

# Calls to a database or a cache: state that is looked up, not a service that thinks.
STORES = frozenset({"db", "mc"})
USER = "USER"


class Vertex(NamedTuple):
    """What is called: a service through one of its interfaces, "" where a call names none. One service is several
    vertices when its interfaces do different things."""

    service: str
    interface: str = ""


class Callee(NamedTuple):
    """A vertex and how it is called: rpc, http, mq, db, mc, ..."""

    vertex: Vertex
    kind: str


class Edge(NamedTuple):
    """``times`` calls from one vertex to another, by their places in ``CallGraph.vertices``."""

    caller: int
    callee: int
    kind: str
    times: int


@dataclass(frozen=True)
class CallGraph:
    """An acyclic graph of one root, ``vertices[0]``. Vertices come level by level and by name inside a level, edges in
    order, so that equal graphs are equal values. Make one with ``call_graph``."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]

    @property
    def root(self) -> Vertex:
        return self.vertices[0]

    @cached_property
    def levels(self) -> list[int]:
        """The level of each vertex: the fewest calls it takes from the root, whose level is 0."""
        levels = [0] + [-1] * (len(self.vertices) - 1)
        for edge in self.edges:  # by caller, and so level by level
            if levels[edge.callee] < 0:
                levels[edge.callee] = levels[edge.caller] + 1
        return levels


def call_graph(root: Vertex, calls: Mapping[Vertex, Mapping[Callee, int]]) -> CallGraph:
    """The graph of what ``root`` reaches through ``calls`` (caller -> callee -> times), which must be acyclic."""
    vertices, places, level = [root], {root: 0}, [root]
    while level:
        found = {callee.vertex for vertex in level for callee in calls.get(vertex, ())}
        level = sorted(found - places.keys())
        for vertex in level:
            places[vertex] = len(vertices)
            vertices.append(vertex)
    edges = (
        Edge(place, places[callee.vertex], callee.kind, times)
        for place, vertex in enumerate(vertices)
        for callee, times in calls.get(vertex, {}).items()
    )
    return CallGraph(tuple(vertices), tuple(sorted(edges)))


def reaches(calls: Mapping[Vertex, Iterable[Callee]], start: Vertex, goal: Vertex) -> bool:
    """Whether a chain of calls leads from ``start`` to ``goal``; a vertex reaches itself."""
    seen, left = {start}, [start]
    while left:
        vertex = left.pop()
        if vertex == goal:
            return True
        fresh = {callee.vertex for callee in calls.get(vertex, ())} - seen
        seen |= fresh
        left += fresh
    return False
