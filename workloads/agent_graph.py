"""Agent graphs: a user's task is a graph of calls between agents, each with an adapter of its own.

Tasks arrive open loop. Inside a task a call starts a hand-over time after its caller's answer is complete; repeated
calls of one agent by the same caller go one after the other, each with all earlier ones in its prompt. Where a caller
was itself called several times, its own calls are dealt out to those times in turn. Databases and caches have no
adapter: looking something up there delays the calls of whoever does it. ``--popularity`` and arrivals that bring their
own adapters say how often tasks enter by each root, in place of the model's own frequencies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from libra.errors import LibraError
from libra.request import Request
from workloads.adapters import adapter_names
from workloads.agent_calls import TASK_SHAPE, TaskBuilder, TaskCall, TaskShape, num_calls
from workloads.arrivals import Arrivals, IntArray
from workloads.demand import Demand
from workloads.garbage import collection_paused
from workloads.graphs.built_in import built_in_model
from workloads.graphs.model import GraphModel
from workloads.header import Provenance, TraceHeader
from workloads.popularity import parse_popularity
from workloads.processes import parse_arrivals
from workloads.seeds import generator
from workloads.trace import Trace

PILOT_TASKS = 1000


@dataclass(frozen=True)
class AgentGraph:
    """The workload of ``model``, or of the built-in one for as many agents as adapters are asked for."""

    name: str = "agent-graph"
    description: str = "tasks that fan out over agents calling each other, one adapter per agent"
    model: GraphModel | None = None
    shape: TaskShape = TASK_SHAPE

    @property
    def num_adapters(self) -> int | None:
        """One for each agent of a model from a file."""
        return None if self.model is None else len(self.model.services)

    @collection_paused()
    def generate(self, demand: Demand) -> Trace:
        """A trace for ``demand``, whose rate of requests holds on average. Tasks begin inside its window and are kept
        whole. Equal demands give equal traces, in any process. Raises LibraError."""
        model = self.model or built_in_model(demand.num_adapters)
        arrivals = _arrivals(model, demand, demand.request_rate / _mean_calls(model, demand), "arrivals")
        if not len(arrivals.times):
            raise _no_task(demand)
        entries = _entries(model, demand, arrivals, generator(demand.seed, "entries"))
        names = adapter_names(demand.num_adapters)
        calls, num_cut = self._tasks(model, demand, arrivals.times.tolist(), entries.tolist())
        header = TraceHeader(
            name=self.name,
            seed=demand.seed,
            provenance=Provenance("generated", parse_arrivals(demand.arrivals).source, "generated", "generated"),
            duration_s=demand.duration_s,
            adapters=dict.fromkeys(names),
            parameters=self._parameters(model, demand, arrivals),
            counts={
                "calls_cut_by_context": num_cut,
                "agents_that_share_an_adapter": max(0, len(model.services) - len(names)),
                "adapters_without_an_agent": max(0, len(names) - len(model.services)),
            },
            warnings=arrivals.warnings,
        )
        return Trace(header, tuple(_requests(calls, model, names)))

    def _tasks(
        self, model: GraphModel, demand: Demand, starts: Sequence[float], entries: Sequence[int]
    ) -> tuple[list[list[TaskCall]], int]:
        """The calls of every task, and how many were cut."""
        graphs, lengths = generator(demand.seed, "graphs"), generator(demand.seed, "lengths")
        agents = {service: number for number, service in enumerate(model.services)}
        tasks, num_cut = [], 0
        for number, (entry, start_s) in enumerate(zip(entries, starts, strict=True)):
            graph = model.entries[entry].draw(graphs)
            task = TaskBuilder(self.shape, graph, agents, f"t{number}", round(start_s, 6), lengths)
            tasks.append(task.calls)
            num_cut += task.num_cut
        return tasks, num_cut

    def _parameters(self, model: GraphModel, demand: Demand, arrivals: Arrivals) -> dict[str, Any]:
        """Everything the trace depends on, for its header; a file is named without its folder."""
        return {
            "num_adapters": demand.num_adapters,
            "request_rate": demand.request_rate,
            "popularity": demand.popularity,
            "arrivals": demand.arrivals.partition(":")[0],
            **arrivals.parameters,
            "graph_model": model.name,
            "num_agents": len(model.services),
            "num_tasks": len(arrivals.times),
            **{entry.name: _described(getattr(self.shape, entry.name)) for entry in fields(self.shape)},
        }


def _arrivals(model: GraphModel, demand: Demand, task_rate: float, purpose: str) -> Arrivals:
    process = parse_arrivals(demand.arrivals, demand.burstiness)
    rng = generator(demand.seed, purpose)
    return process.sample(rng, task_rate, 0.0, demand.duration_s, len(model.entries))


def _entries(model: GraphModel, demand: Demand, arrivals: Arrivals, rng: np.random.Generator) -> IntArray:
    """Which of the model's entries each task comes in by. Advances ``rng``."""
    if arrivals.adapters is not None:
        if demand.popularity is not None:
            raise LibraError(
                f"--popularity {demand.popularity}: the arrivals of {demand.arrivals!r} say how often each root is "
                "entered; leave out --popularity"
            )
        return arrivals.adapters
    if demand.popularity is None:
        ranks = model.draw_entries(rng, len(arrivals.times))
    else:
        ranks = parse_popularity(demand.popularity).assign(rng, len(arrivals.times), len(model.entries))
    return ranks if arrivals.ranking is None else arrivals.ranking.holders(arrivals.times, ranks)


def _mean_calls(model: GraphModel, demand: Demand) -> float:
    """Calls of a task on average, from pilot tasks that have a randomness of their own."""
    arrivals = _arrivals(model, demand, demand.request_rate, "pilot arrivals")
    rng = generator(demand.seed, "pilot tasks")
    if arrivals.adapters is None:
        evenly = np.linspace(0.0, demand.duration_s, PILOT_TASKS, endpoint=False)
        entries = _entries(model, demand, replace(arrivals, times=evenly), rng)
    elif len(arrivals.adapters):
        entries = rng.choice(_entries(model, demand, arrivals, rng), PILOT_TASKS)
    else:
        raise _no_task(demand)
    return float(np.mean([num_calls(model.entries[entry].draw(rng)) for entry in entries.tolist()]))


def _requests(tasks: Sequence[Sequence[TaskCall]], model: GraphModel, names: Sequence[str]) -> Iterator[Request]:
    """All calls as requests, by the earliest time they can start."""
    adapters = {service: names[number % len(names)] for number, service in enumerate(model.services)}
    rows: list[tuple[TaskCall, int, int]] = []
    for task, calls in enumerate(tasks):
        first = len(rows)
        rows += [(call, first, task) for call in calls]
    order = np.argsort([call.arrival_s for call, _, _ in rows], kind="stable")
    identifier = np.argsort(order, kind="stable").tolist()
    for place in order.tolist():
        call, first, task = rows[place]
        yield Request(
            id=identifier[place],
            arrival_s=call.arrival_s,
            adapter=adapters[call.vertex.service],
            output_tokens=call.answer.length,
            prompt=call.prompt,
            output=call.answer.id,
            session=call.session,
            task=f"t{task}",
            after=() if call.after is None else (identifier[first + call.after],),
            delay_s=call.delay_s,
        )


def _no_task(demand: Demand) -> LibraError:
    return LibraError(
        f"workload agent-graph: no task in {demand.duration_s:g} s at {demand.request_rate:g} req/s; "
        "use a longer --duration or a higher --request-rate"
    )


def _described(value: Any) -> Any:
    return {"kind": type(value).__name__, **asdict(value)} if hasattr(value, "sample") else value


AGENT_GRAPH = AgentGraph()
