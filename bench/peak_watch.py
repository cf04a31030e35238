"""What a run is short of: seats, tokens, HBM, device or link, as averages over time, and who waits for which."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bench.wrapped_executor import WrappedExecutor
from libra.engine.engine import Engine
from libra.engine.executor import StepBatch, StepResult
from libra.engine.link import Direction
from libra.engine.roofline import RooflineExecutor

# Numbers of requests and adapters and shares of HBM, averaged over time. Those who wait, by what they wait for: saves
# of evicted blocks, HBM, a seat in the batch, tokens of a step, or their turn: behind one that waits for HBM and may be
# passed no longer. Those who were preempted are among them. Held: what admitted requests keep and nothing can evict.
STATE = (
    "admitted",
    "adapters_admitted",
    "seats_taken",
    "waiting",
    "waiting_saves",
    "waiting_hbm",
    "waiting_seats",
    "waiting_tokens",
    "waiting_turn",
    "held",
    "held_by_adapters",
)
# Shares of the time in which a step is under way, and of what the profile's rates allow in all of it.
RATES = ("computing", "flops_used", "bandwidth_used", "link_in_used", "link_out_used")
TOTALS = (*STATE, *RATES, "seconds", "steps", "tokens", "prompt_tokens", "preemptions")
COLUMNS = (*STATE, *RATES, "step_ms", "tokens_per_step", "prompt_tokens_per_step", "preemptions_per_s")


class Watch:
    """A progress callback for ``replay`` that looks at a simulated engine step by step and changes nothing it does."""

    def __init__(self, engine: Engine, rates: Mapping[str, Any], from_s: float, until_s: float) -> None:
        """Watches what happens between ``from_s`` and ``until_s``. ``rates``: the profile's, by name. Raises ValueError
        for an engine that computes for real."""
        if not isinstance(engine.executor, RooflineExecutor):
            raise ValueError(f"only simulated engines are watched, not one {engine.executor.describe()}")
        self._engine, self._rates, self._from_s, self._until_s = engine, rates, from_s, until_s
        # Integrals over time, and totals, from the start of the run on; and what they were at both ends of the watch.
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._begin = self._end = self._sums.copy()
        self._executor = engine.executor
        engine.executor = _WatchedExecutor(engine.executor, self._during)

    def __call__(self, now_s: float, num_done: int) -> None:
        """After each step, and after each wait of an engine that has nothing to compute."""
        self._integrate(self._state(), now_s - self._sums["seconds"])
        if now_s <= self._from_s:
            self._begin = self._end = self._sums.copy()
        elif now_s <= self._until_s:
            self._end = self._sums.copy()

    def averages(self) -> dict[str, float]:
        """The figures of the time watched, by name of ``COLUMNS``."""
        total = {name: self._end[name] - self._begin[name] for name in TOTALS}
        seconds, steps = total["seconds"] or 1.0, total["steps"] or 1.0
        return {
            **{name: total[name] / seconds for name in (*STATE, *RATES)},
            "step_ms": 1000 * total["computing"] / steps,
            "tokens_per_step": total["tokens"] / steps,
            "prompt_tokens_per_step": total["prompt_tokens"] / steps,
            "preemptions_per_s": total["preemptions"] / seconds,
        }

    def _during(self, batch: StepBatch, execute: Callable[[], StepResult]) -> StepResult:
        """Computes a step. The state at its start, when whoever could be admitted has been, counts for all of it."""
        began_s, demand = self._engine.clock.now(), self._executor.demand(batch)
        prompt_tokens = sum([chunk.num_tokens for chunk in batch.prefill])
        num_tokens = len(batch.decode) + prompt_tokens
        state = self._state(num_tokens)
        self._integrate(state, began_s - self._sums["seconds"])
        result = execute()
        sums, num_steps, seconds = self._sums, len(result.step_ends), result.step_ends[-1] - began_s
        self._integrate(state, seconds)
        sums["computing"] += seconds
        sums["steps"] += num_steps
        sums["tokens"] += num_steps * num_tokens
        sums["prompt_tokens"] += num_steps * prompt_tokens
        sums["flops_used"] += num_steps * (demand.flops + demand.adapter_flops) / self._rates["flops_per_s"]
        num_bytes = demand.num_bytes + demand.adapter_bytes
        sums["bandwidth_used"] += num_steps * num_bytes / self._rates["memory_bytes_per_s"]
        return result

    def _integrate(self, state: Mapping[str, float], seconds: float) -> None:
        sums, memory = self._sums, self._engine.manager.memory
        sums["seconds"] += seconds
        for name, value in state.items():
            sums[name] += seconds * value
        sums["preemptions"] = self._engine.scheduler.num_preemptions
        sums["link_in_used"] = memory.counters.swap_in_bytes / memory.link.bytes_per_s(Direction.IN)
        sums["link_out_used"] = memory.counters.swap_out_bytes / memory.link.bytes_per_s(Direction.OUT)

    def _state(self, num_tokens: int = 0) -> dict[str, float]:
        """As of now, when a step over ``num_tokens`` begins."""
        scheduler, manager, memory = self._engine.scheduler, self._engine.manager, self._engine.manager.memory
        num_admitted = len(scheduler.running) + len(scheduler.loading)
        is_full = num_admitted >= scheduler.config.max_num_seqs
        is_spent = not is_full and num_tokens >= scheduler.config.max_num_batched_tokens
        num_refused = sum([sequence in manager.refusals for sequence in scheduler.waiting])
        num_left = len(scheduler.waiting) - num_refused
        adapters = {holding.adapter_node for holding in manager.holdings.values()}
        num_blocks = memory.hbm.num_blocks
        can_go = memory.hbm.num_free + sum(memory.tree.leaving_blocks) + sum(memory.tree.evictable_blocks)
        return {
            "admitted": num_admitted,
            "adapters_admitted": len(adapters),
            "seats_taken": is_full,
            "waiting": len(scheduler.waiting),
            "waiting_saves": len(manager.claims),
            "waiting_hbm": num_refused - len(manager.claims),
            "waiting_seats": num_left if is_full else 0,
            "waiting_tokens": num_left if is_spent else 0,
            "waiting_turn": 0 if is_full or is_spent else num_left,
            "held": (num_blocks - can_go) / num_blocks,
            "held_by_adapters": sum([int(memory.tree.size[node]) for node in adapters]) / num_blocks,
        }


class _WatchedExecutor(WrappedExecutor):
    """``real``, whose steps are computed by ``during``."""

    def __init__(
        self, real: RooflineExecutor, during: Callable[[StepBatch, Callable[[], StepResult]], StepResult]
    ) -> None:
        super().__init__(real)
        self._during = during

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        return self._during(batch, partial(super().execute, batch, max_steps, until_s))
