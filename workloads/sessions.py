"""Open-loop sessions: turns that grow one context under one adapter. Every scenario of the paper is one config of this.

A turn arrives one assumed service time and one think time after the turn before it. Turn k's prompt is the shared
prefix, then every earlier user utterance and recorded answer, then a new utterance: prompts of later turns begin with
those of earlier ones. Sessions start early enough before time 0 for the request rate to be stationary; the trace is the
window [0, duration) of that, so its first requests include later turns of sessions that began before it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from libra.errors import LibraError
from libra.request import Segment
from workloads.adapters import adapter_names
from workloads.arrivals import Arrivals, FloatArray, IntArray
from workloads.demand import Demand
from workloads.distributions import Distribution, whole_tokens
from workloads.garbage import collection_paused
from workloads.header import Provenance, TraceHeader
from workloads.popularity import DEFAULT_POPULARITY, parse_popularity
from workloads.processes import parse_arrivals
from workloads.seeds import generator
from workloads.service import ServiceTime
from workloads.trace import Trace
from workloads.turns import Turns, first_turns, turn_arrivals, turn_requests

# Fields of a config that a trace's header gives as what the demand made of them.
RESOLVED = frozenset({"name", "popularity", "num_adapters"})


@dataclass(frozen=True)
class SessionConfig:
    """A scenario. Lengths in tokens, times in seconds.

    Turns are 1 + a negative binomial of this mean and shape: shape 1 is the geometric distribution, larger ones have
    session lengths closer to the mean. ``prefix_tokens`` is the adapter's shared prefix. A session ends before the turn
    that would pass ``max_context_tokens`` (prompt and answer together); such turns are counted in the header.
    ``popularity`` is the one drawn from where the demand names none, and ``num_adapters``, where it is not None, is
    what a command asks for by default.
    """

    name: str
    description: str
    mean_turns: float
    turn_shape: float
    prefix_tokens: int
    user_tokens: Distribution
    answer_tokens: Distribution
    think_s: Distribution
    max_utterance_tokens: int = 2048
    max_context_tokens: int = 8192
    service: ServiceTime = field(default_factory=ServiceTime)
    popularity: str = DEFAULT_POPULARITY
    num_adapters: int | None = None

    def __post_init__(self) -> None:
        if self.mean_turns < 1:
            raise LibraError(f"workload {self.name}: mean_turns is {self.mean_turns}; a session has at least 1 turn")
        if self.prefix_tokens + 2 * self.max_utterance_tokens > self.max_context_tokens:
            raise LibraError(f"workload {self.name}: a first turn may pass max_context_tokens; raise it")

    def generate(self, demand: Demand) -> Trace:
        """A trace of this scenario for ``demand``. Equal arguments give equal traces, in any process."""
        return generate(self, demand)

    @property
    def ramp_s(self) -> float:
        """How long before time 0 sessions begin: the mean gap times the turns of a session eight standard deviations
        longer than the mean. Under 1 % of the turns due at time 0 are missed."""
        later_turns = self.mean_turns - 1
        deviation = math.sqrt(later_turns + later_turns**2 / self.turn_shape)
        return (later_turns + 8 * deviation) * self.turn_gap_s

    @property
    def lag_s(self) -> float:
        """How long after the start of its session an average request comes, not counting turns cut by the context.

        Of n turns the mean has (n - 1) / 2 before it, and sessions count by their turns: E[n (n - 1)] / (2 E[n]).
        """
        later_turns = self.mean_turns - 1
        pairs = 2 * later_turns + later_turns**2 * (1 + 1 / self.turn_shape)
        return pairs / (2 * self.mean_turns) * self.turn_gap_s

    @property
    def turn_gap_s(self) -> float:
        """Mean time from a turn of a session to the next: think and assumed service."""
        return self.think_s.mean + self.service.of(self.answer_tokens.mean)


@collection_paused()
def generate(config: SessionConfig, demand: Demand) -> Trace:
    """A trace of ``config`` for ``demand``; see the module for what a session is."""
    names = adapter_names(demand.num_adapters)
    process = parse_arrivals(demand.arrivals, demand.burstiness, config.lag_s)
    arrivals = process.sample(
        generator(demand.seed, "arrivals"),
        demand.request_rate / config.mean_turns,
        -config.ramp_s,
        demand.duration_s,
        demand.num_adapters,
    )
    adapters, popularity = _adapters(config, arrivals, demand)
    turns = _draw_turns(config, arrivals.times, generator(demand.seed, "turns"))
    kept, cut = _in_window(turns, config, demand.duration_s)
    if not len(kept):
        raise LibraError(
            f"workload {config.name}: no request in {demand.duration_s:g} s at {demand.request_rate:g} req/s; "
            "use a longer --duration or a higher --request-rate"
        )
    prefixes = _prefixes(names, config.prefix_tokens)
    requests = tuple(
        turn_requests(turns, kept, [names[index] for index in adapters], [prefixes[index] for index in adapters])
    )
    header = TraceHeader(
        name=config.name,
        seed=demand.seed,
        provenance=Provenance(
            adapter_source="drawn" if arrivals.adapters is None else process.source,
            arrival_source=process.source,
            length_source="generated",
            prefix_source="generated",
        ),
        duration_s=demand.duration_s,
        adapters=dict.fromkeys(names),
        parameters=_parameters(config, demand, popularity, arrivals),
        counts={"turns_cut_by_context": cut},
        warnings=arrivals.warnings,
    )
    return Trace(header, requests)


def _adapters(config: SessionConfig, arrivals: Arrivals, demand: Demand) -> tuple[list[int], str | None]:
    """The adapter index of every session, and the popularity they were drawn from, if they were."""
    if arrivals.adapters is None:
        spec = demand.popularity or config.popularity
        rng = generator(demand.seed, "adapters")
        ranks = parse_popularity(spec).assign(rng, len(arrivals.times), demand.num_adapters)
        held = ranks if arrivals.ranking is None else arrivals.ranking.holders(arrivals.times, ranks)
        return held.tolist(), spec
    if demand.popularity is not None:
        raise LibraError(
            f"--popularity {demand.popularity}: the arrivals of {demand.arrivals!r} bring their own adapters; "
            "leave out --popularity"
        )
    return arrivals.adapters.tolist(), None


def _prefixes(names: Sequence[str], tokens: int) -> list[Segment | None]:
    """The shared prefix of every adapter."""
    return [Segment(f"{name}.sys", 0, tokens) if tokens else None for name in names]


def _draw_turns(config: SessionConfig, starts: FloatArray, rng: np.random.Generator) -> Turns:
    success = config.turn_shape / (config.turn_shape + config.mean_turns - 1)
    counts = 1 + rng.negative_binomial(config.turn_shape, success, len(starts))
    total = int(counts.sum())
    user = whole_tokens(config.user_tokens.sample(rng, total), config.max_utterance_tokens)
    answer = whole_tokens(config.answer_tokens.sample(rng, total), config.max_utterance_tokens)
    think_s = config.think_s.sample(rng, total)
    return Turns(
        np.repeat(np.arange(len(starts)), counts),
        first_turns(counts),
        turn_arrivals(starts, counts, think_s, answer, config.service),
        user,
        answer,
    )


def _in_window(turns: Turns, config: SessionConfig, duration_s: float) -> tuple[IntArray, int]:
    """Indices of the turns in the trace, by arrival, and how many of the window's were cut by the context limit."""
    context = np.cumsum(turns.user_tokens + turns.answer_tokens)
    before = (context - turns.user_tokens - turns.answer_tokens)[turns.first][turns.session]
    in_window = (turns.arrival_s >= 0) & (turns.arrival_s < duration_s)
    fits = config.prefix_tokens + context - before <= config.max_context_tokens
    kept = np.flatnonzero(in_window & fits)
    return kept[np.argsort(turns.arrival_s[kept], kind="stable")], int((in_window & ~fits).sum())


def _parameters(config: SessionConfig, demand: Demand, popularity: str | None, arrivals: Arrivals) -> dict[str, Any]:
    """Everything the trace depends on, for its header; a file is named without its folder."""
    return {
        "num_adapters": demand.num_adapters,
        "request_rate": demand.request_rate,
        "popularity": popularity,
        "arrivals": demand.arrivals.partition(":")[0],
        **arrivals.parameters,
        **{
            name: _described(getattr(config, name))
            for name in (entry.name for entry in fields(config))
            if name not in RESOLVED
        },
    }


def _described(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__, **asdict(value)}
    return value
