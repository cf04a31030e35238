"""A model of agents that needs no data: a stated rule, learnt from like any other source.

Of n agents the first ceil(n / 5) take tasks in, which come to them by Zipf's law; the others are dealt out to three
levels below. The agents of a level are dealt out to those of the level above, which know them, and those who take tasks
in know 2 more and those of the first level 1 more, drawn by Zipf's law, so that a few are known by many. In a task an
agent calls each of those it knows with probability 0.7, and once more with probability 0.25 each time; each caller uses
one of a callee's two interfaces. All of this is assumed.
"""

from collections import defaultdict
from itertools import pairwise

import numpy as np

from workloads.graphs.calls import Callee, CallGraph, Vertex, call_graph
from workloads.graphs.model import GraphModel, learn_model
from workloads.popularity import Zipf
from workloads.seeds import generator

AGENTS_PER_ENTRY = 5
MORE_KNOWN = (2, 1, 0)
CALL_PROBABILITY = 0.7
REPEAT_PROBABILITY = 0.25
GRAPHS_PER_ENTRY = 40
INTERFACES = ("ask", "do")

Known = dict[str, list[Vertex]]


def built_in_model(num_agents: int) -> GraphModel:
    """The model of ``num_agents`` agents; equal for equal numbers, in any process."""
    rng = generator(num_agents, "built-in agents")
    levels = _levels(num_agents)
    known = _acquaintances(levels, rng)
    entries = Zipf(1.0).assign(rng, GRAPHS_PER_ENTRY * len(levels[0]), len(levels[0]))
    graphs = [_task(levels[0][entry], known, rng) for entry in entries.tolist()]
    return learn_model("built-in", graphs)


def _levels(num_agents: int) -> list[list[str]]:
    digits = len(str(num_agents - 1))
    names = [f"agent-{number:0{digits}d}" for number in range(num_agents)]
    num_entries = -(-num_agents // AGENTS_PER_ENTRY)
    workers = names[num_entries:]
    return [names[:num_entries], *(workers[level :: len(MORE_KNOWN)] for level in range(len(MORE_KNOWN)))]


def _acquaintances(levels: list[list[str]], rng: np.random.Generator) -> Known:
    """Whom each agent may call, and through which interface."""
    known: Known = {}
    for (callers, callees), more in zip(pairwise(levels), MORE_KNOWN, strict=True):
        for place, caller in enumerate(callers):
            dealt = list(range(place, len(callees), len(callers)))
            drawn = Zipf(1.0).assign(rng, more if callees else 0, max(len(callees), 1)).tolist()
            faces = rng.integers(len(INTERFACES), size=len(dealt) + len(drawn)).tolist()
            known[caller] = [
                Vertex(callees[callee], INTERFACES[face]) for callee, face in zip([*dealt, *drawn], faces, strict=True)
            ]
    return known


def _task(entry: str, known: Known, rng: np.random.Generator) -> CallGraph:
    """One task's calls. An agent that is called by several, or known twice, is one vertex for each interface."""
    root = Vertex(entry)
    calls: defaultdict[Vertex, dict[Callee, int]] = defaultdict(dict)
    level = [root]
    while level:
        for caller in level:
            for vertex in sorted(set(known.get(caller.service, ()))):
                if rng.random() < CALL_PROBABILITY:
                    calls[caller][Callee(vertex, "rpc")] = int(rng.geometric(1 - REPEAT_PROBABILITY))
        level = sorted({callee.vertex for caller in level for callee in calls[caller]})
    return call_graph(root, calls)
