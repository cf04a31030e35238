"""One task: a call graph as calls with prompts, each of which waits for the call it grew out of."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from libra.request import Segment
from workloads.distributions import Distribution, LogNormal, whole_tokens
from workloads.graphs.calls import STORES, CallGraph, Edge, Vertex

MIN_DELAY_S = 1e-3


@dataclass(frozen=True)
class TaskShape:
    """Lengths in tokens and waits in seconds; all of them are assumed.

    A prompt is the agent's tools, the interface's instructions, the caller's answer (the task itself where the user
    calls) and, for every call so far, a hand-over and the answer it got. A call starts ``handover_s`` after the one it
    waits for, and ``store_s`` later for every call to a store that its caller makes.
    """

    tools_tokens: int
    interface_tokens: int
    task_tokens: Distribution
    handover_tokens: Distribution
    answer_tokens: Distribution
    handover_s: Distribution
    store_s: float
    max_utterance_tokens: int = 1024
    max_context_tokens: int = 8192


TASK_SHAPE = TaskShape(
    tools_tokens=512,
    interface_tokens=64,
    task_tokens=LogNormal(mean=64.0, cv=1.0),
    handover_tokens=LogNormal(mean=16.0, cv=0.5),
    answer_tokens=LogNormal(mean=128.0, cv=1.0),
    handover_s=LogNormal(mean=0.2, cv=1.0),
    store_s=0.005,
)


class TaskCall(NamedTuple):
    """A call of a task. ``after`` is the place in the task of the call it waits for, None for the first one, and
    ``arrival_s`` the earliest it can start."""

    vertex: Vertex
    arrival_s: float
    after: int | None
    delay_s: float
    prompt: tuple[Segment, ...]
    answer: Segment
    session: str


def num_calls(graph: CallGraph) -> int:
    """Calls of a task over ``graph`` that an adapter answers, if none is cut."""
    return 1 + sum(edge.times for edge in graph.edges if edge.kind not in STORES)


class TaskBuilder:
    """The calls of one task, callers before those they call; see workloads.agent_graph for the order of calls.

    ``agents`` numbers the services. ``num_cut`` counts the calls that would have passed the longest context.
    """

    def __init__(
        self,
        shape: TaskShape,
        graph: CallGraph,
        agents: Mapping[str, int],
        name: str,
        start_s: float,
        rng: np.random.Generator,
    ) -> None:
        self.calls: list[TaskCall] = []
        self.num_cut = 0
        self._shape, self._graph, self._agents, self._name = shape, graph, agents, name
        count, longest = num_calls(graph), shape.max_utterance_tokens
        self._answers = whole_tokens(shape.answer_tokens.sample(rng, count), longest).tolist()
        self._handovers = whole_tokens(shape.handover_tokens.sample(rng, count), longest).tolist()
        self._delays = np.maximum(shape.handover_s.sample(rng, count), MIN_DELAY_S).round(6).tolist()
        task = Segment(f"{name}.in", 0, int(whole_tokens(shape.task_tokens.sample(rng, 1), longest)[0]))
        prompt = (*self._opening(graph.root), task)
        self.calls.append(TaskCall(graph.root, start_s, None, 0.0, prompt, self._answer(), f"{name}.0"))
        self._expand()

    def _expand(self) -> None:
        """Adds the calls that each vertex makes once all calls of it are known."""
        made: defaultdict[int, list[Edge]] = defaultdict(list)
        for edge in self._graph.edges:
            made[edge.caller].append(edge)
        of_vertex: defaultdict[int, list[int]] = defaultdict(list, {0: [0]})
        for place in callers_first(self._graph):
            callers = of_vertex[place]
            if not callers:
                continue  # a store, or what only a store calls
            lookups = sum(edge.times for edge in made[place] if edge.kind in STORES)
            wait_s = self._shape.store_s * lookups / len(callers)
            for edge in (edge for edge in made[place] if edge.kind not in STORES):
                for turn, caller in enumerate(callers[: edge.times]):
                    count = (edge.times - turn - 1) // len(callers) + 1
                    of_vertex[edge.callee] += self._repeat(caller, self._graph.vertices[edge.callee], count, wait_s)

    def _repeat(self, caller: int, vertex: Vertex, count: int, wait_s: float) -> list[int]:
        """``count`` calls of ``vertex`` by the call ``caller``, one after the other. Returns their places."""
        prompt = (*self._opening(vertex), self.calls[caller].answer)
        tokens = sum(part.length for part in prompt)
        first, after = len(self.calls), caller
        for repeat in range(count):
            place = len(self.calls)
            handover, answer = Segment(f"{self._name}.h{place}", 0, self._handovers[place]), self._answer()
            tokens += handover.length + answer.length
            if tokens > self._shape.max_context_tokens:
                self.num_cut += count - repeat
                break
            prompt = (*prompt, handover)
            delay_s = round(self._delays[place] + (0.0 if repeat else wait_s), 6)
            arrival_s = round(self.calls[after].arrival_s + delay_s, 6)
            self.calls.append(TaskCall(vertex, arrival_s, after, delay_s, prompt, answer, f"{self._name}.{first}"))
            prompt, after = (*prompt, answer), place
        return list(range(first, len(self.calls)))

    def _answer(self) -> Segment:
        place = len(self.calls)
        return Segment(f"{self._name}.o{place}", 0, self._answers[place])

    def _opening(self, vertex: Vertex) -> tuple[Segment, ...]:
        agent = f"agent{self._agents[vertex.service]}"
        tools = Segment(f"{agent}.tools", 0, self._shape.tools_tokens)
        if not vertex.interface:
            return (tools,)
        return tools, Segment(f"{agent}.{vertex.interface}", 0, self._shape.interface_tokens)


def callers_first(graph: CallGraph) -> Sequence[int]:
    """The places of the vertices in an order in which callers stand before callees (Kahn)."""
    left = [0] * len(graph.vertices)
    made: defaultdict[int, list[int]] = defaultdict(list)
    for edge in graph.edges:
        left[edge.callee] += 1
        made[edge.caller].append(edge.callee)
    order = [0]
    for place in order:  # grows while it is walked
        for callee in made[place]:
            left[callee] -= 1
            if left[callee] == 0:
                order.append(callee)
    return order
