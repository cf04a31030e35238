"""A random-graph model of call graphs (DGG's graph generator).

A service that work enters by is a model of its own. A vertex at some level makes one of the sets of calls that it made
in the source at that level, next to the same siblings, as often as it did there: what a service calls depends on where
it stands and on who was called beside it. How often each call is repeated is drawn apart. Graphs drawn so are new
combinations of calls that occurred.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from workloads.arrivals import IntArray
from workloads.graphs.calls import STORES, Callee, CallGraph, Vertex, call_graph, reaches
from workloads.graphs.shapes import Shapes, graph_shapes, merged_shapes

T = TypeVar("T", bound=Hashable)


class Place(NamedTuple):
    """Where a vertex stands when it makes its calls: its level, and what its first caller called beside it."""

    vertex: Vertex
    level: int
    siblings: tuple[Vertex, ...]


class Pair(NamedTuple):
    """Who calls whom, and how."""

    caller: Vertex
    callee: Callee


class Weighted(Generic[T]):
    """Options and how often each occurred. Raises ValueError for none."""

    def __init__(self, counts: Mapping[T, int]) -> None:
        if not counts:
            raise ValueError("a choice needs at least one option")
        self.counts = dict(counts)
        self._options = list(self.counts)
        self._edges = list(accumulate(self.counts.values()))

    def draw(self, rng: np.random.Generator) -> T:
        """One of the options. Advances ``rng`` unless there is no choice."""
        if len(self._options) == 1:
            return self._options[0]
        return self._options[bisect_right(self._edges, rng.random() * self._edges[-1])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weighted) and self.counts == other.counts

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class EntryModel:
    """The graphs of one root: ``num_graphs`` of the source's, of shapes ``shapes``, in cluster ``cluster``."""

    root: Vertex
    num_graphs: int
    calls: Mapping[Place, Weighted[tuple[Callee, ...]]]
    times: Mapping[Pair, Weighted[int]]
    shapes: Shapes
    cluster: int = 0

    def draw(self, rng: np.random.Generator) -> CallGraph:
        """A new graph. A call that would close a cycle, which only a new combination can, is left out."""
        calls: dict[Vertex, dict[Callee, int]] = {}
        known = {self.root}
        level = [Place(self.root, 0, ())]
        while level:
            below: list[Place] = []
            for place in level:
                options = self.calls.get(place)
                if options is None:  # a new combination: no example of what it makes the vertex call
                    continue
                made = options.draw(rng)
                calls[place.vertex] = {
                    callee: self.times[Pair(place.vertex, callee)].draw(rng)
                    for callee in made
                    if callee.vertex not in known or not reaches(calls, callee.vertex, place.vertex)
                }
                below += _new_places(made, place.level, known)
            level = below
        return call_graph(self.root, calls)


@dataclass(frozen=True)
class GraphModel:
    """Models of several roots, most frequent first. ``counts`` says what was mended or left out of the source."""

    name: str
    entries: tuple[EntryModel, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_graphs(self) -> int:
        """Graphs of the source."""
        return sum(entry.num_graphs for entry in self.entries)

    @property
    def source_shapes(self) -> Shapes:
        """The shapes of the graphs that the model was learnt from."""
        return merged_shapes(entry.shapes for entry in self.entries)

    @property
    def clusters(self) -> dict[int, "GraphModel"]:
        """The model's clusters as models of their own, by number."""
        numbers = sorted({entry.cluster for entry in self.entries})
        return {
            number: replace(self, entries=tuple(entry for entry in self.entries if entry.cluster == number))
            for number in numbers
        }

    def draw_entries(self, rng: np.random.Generator, count: int) -> IntArray:
        """``count`` places in ``entries``, each as often as its root occurred. Advances ``rng``."""
        edges = np.cumsum([entry.num_graphs for entry in self.entries])
        drawn: IntArray = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
        return np.minimum(drawn, len(edges) - 1)

    def draw(self, rng: np.random.Generator, count: int) -> Iterator[CallGraph]:
        """``count`` new graphs of such roots."""
        for place in self.draw_entries(rng, count).tolist():
            yield self.entries[place].draw(rng)

    @cached_property
    def services(self) -> tuple[str, ...]:
        """Services that are called other than as a store, or are entered: the most called first, then by name."""
        calls: Counter[str] = Counter()
        for entry in self.entries:
            calls[entry.root.service] += entry.num_graphs
            for pair, times in entry.times.items():
                if pair.callee.kind not in STORES:
                    calls[pair.callee.vertex.service] += sum(value * count for value, count in times.counts.items())
        return tuple(sorted(calls, key=lambda service: (-calls[service], service)))


def learn_model(name: str, graphs: Sequence[CallGraph], counts: Mapping[str, int] | None = None) -> GraphModel:
    """The model of ``graphs``; all in one cluster until workloads.graphs.clusters tells them apart."""
    by_root: defaultdict[Vertex, list[CallGraph]] = defaultdict(list)
    for graph in graphs:
        by_root[graph.root].append(graph)
    roots = sorted(by_root, key=lambda root: (-len(by_root[root]), root))
    entries = tuple(_learn_entry(root, by_root[root]) for root in roots)
    return GraphModel(name, entries, counts or {})


def _learn_entry(root: Vertex, graphs: Sequence[CallGraph]) -> EntryModel:
    calls: defaultdict[Place, Counter[tuple[Callee, ...]]] = defaultdict(Counter)
    times: defaultdict[Pair, Counter[int]] = defaultdict(Counter)
    num_graphs = 0
    for graph, number in Counter(graphs).items():
        num_graphs += number
        made: defaultdict[Vertex, list[Callee]] = defaultdict(list)
        for edge in graph.edges:
            caller, callee = graph.vertices[edge.caller], Callee(graph.vertices[edge.callee], edge.kind)
            made[caller].append(callee)
            times[Pair(caller, callee)][edge.times] += number
        for place in _places(root, made):
            calls[place][tuple(sorted(made.get(place.vertex, ())))] += number
    return EntryModel(
        root,
        num_graphs,
        {place: Weighted(options) for place, options in calls.items()},
        {pair: Weighted(options) for pair, options in times.items()},
        graph_shapes(graphs),
    )


def _places(root: Vertex, made: Mapping[Vertex, Sequence[Callee]]) -> Iterator[Place]:
    """Every vertex where it stands, level by level."""
    known = {root}
    level = [Place(root, 0, ())]
    while level:
        yield from level
        level = [new for place in level for new in _new_places(made.get(place.vertex, ()), place.level, known)]


def _new_places(made: Sequence[Callee], level: int, known: set[Vertex]) -> list[Place]:
    """The places of callees met for the first time, below a caller at ``level``. Adds them to ``known``."""
    places = []
    together = tuple(sorted({callee.vertex for callee in made}))
    for vertex in together:
        if vertex not in known:
            known.add(vertex)
            places.append(Place(vertex, level + 1, tuple(other for other in together if other != vertex)))
    return places
