"""The simulated executor: a step takes what the roofline of a profile says."""

from collections import Counter
from collections.abc import Sequence as Items
from functools import partial

from libra.clock import Clock
from libra.engine.cold_start import ColdAdapter, step_end_s
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.profile import Profile
from libra.engine.step_demand import (
    StepCounter,
    StepDemand,
    adapter_mixed,
    chunk_adapters,
    decode_context,
    prefix_pairs,
    tokens_by_adapter,
    work_of,
)
from libra.spec import AdapterSpec, ModelSpec

# What a running request is assumed to have behind it where no request is at hand.
ESTIMATED_CONTEXT = 512


class RooflineExecutor(Executor):
    """Advances the clock by the cost of each step and yields no tokens (replays bring their own)."""

    def __init__(self, clock: Clock, profile: Profile, model: ModelSpec, adapters: list[AdapterSpec]) -> None:
        self._clock = clock
        self._profile = profile
        self._counter = StepCounter(model, adapters)
        self._num_layers = model.num_layers
        # The generation of each adapter that was used last, where the first use costs something. Loads count from 1.
        self._used: dict[str | None, int] = {}
        self._charges_first_use = bool(profile.adapter_first_s or profile.adapter_first_byte_s)
        self._charges_chunks = bool(
            profile.chunk_s
            or profile.prefix_pair_s
            or profile.mixed_s
            or profile.adapter_mixed_s
            or profile.adapter_chunk_s
        )

    def add_adapter(self, spec: AdapterSpec) -> None:
        self._counter.add_adapter(spec)

    def remove_adapter(self, adapter_id: str) -> None:
        self._counter.remove_adapter(adapter_id)
        self._used.pop(adapter_id, None)

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        now_s = self._clock.now()
        if self._charges_first_use:
            now_s += self._first_use_seconds(batch)
        if batch.prefill:
            cold, seconds = self._cold_adapters(batch), self.seconds(batch)
            ends = [step_end_s(now_s, seconds, self._num_layers, cold) if cold else now_s + seconds]
        else:
            ends = self._decode_ends(batch, now_s, max_steps, until_s)
        if self.while_busy is not None:
            self.while_busy(partial(self._rest, ends[-1]))
        self._clock.advance_to(ends[-1])
        return StepResult(ends, [])

    def _rest(self, end_s: float, until_s: float) -> bool:
        if until_s < end_s:
            self._clock.advance_to(until_s)
        return until_s < end_s

    def _decode_ends(self, batch: StepBatch, now_s: float, max_steps: int, until_s: float) -> list[float]:
        """When each of up to ``max_steps`` steps over ``batch`` ends, if none starts at or after ``until_s``."""
        size, context = len(batch.decode), decode_context(batch)
        adapters_s = self._adapter_seconds(batch)
        ends: list[float] = []
        while len(ends) < max_steps and (not ends or now_s < until_s):
            now_s += self._step_seconds(size, size, context, context, size) + adapters_s
            ends.append(now_s)
            context += size
        return ends

    def seconds(self, batch: StepBatch) -> float:
        """What one step over ``batch`` takes when its adapters are in HBM and have been used. The clock stays where it
        is."""
        return self._step_seconds(*work_of(batch, decode_context(batch))) + self._adapter_seconds(batch)

    def demand(self, batch: StepBatch) -> StepDemand:
        """What one step over ``batch`` asks for when its adapters have been used."""
        return self._counter.demand(batch)

    def _first_use_seconds(self, batch: StepBatch) -> float:
        """What it takes to use the adapters of ``batch`` that have been loaded since they were used; now they have."""
        seconds, profile = 0.0, self._profile
        for sequence in (*batch.decode, *(chunk.sequence for chunk in batch.prefill)):
            adapter, generation = sequence.adapter_id, sequence.adapter_generation
            if adapter is not None and self._used.get(adapter, 0) != generation:
                self._used[adapter] = generation
                num_bytes = self._counter.adapter_bytes[adapter]
                seconds += profile.adapter_first_s + num_bytes * profile.adapter_first_byte_s
        return seconds

    def _step_seconds(self, tokens: int, samples: int, kv_read: float, attention_pairs: float, sequences: int) -> float:
        profile = self._profile
        flops, moved = self._counter.flops_and_bytes(tokens, samples, kv_read, attention_pairs)
        busy = max(flops / profile.flops_per_s, moved / profile.memory_bytes_per_s)
        communication = profile.communication_per_step_s + tokens * profile.communication_per_token_s
        beyond = sequences * profile.sequence_s + kv_read * profile.context_token_s
        if tokens > 1:
            beyond += profile.several_s
        return profile.step_overhead_s + busy + communication + beyond

    def _cold_adapters(self, batch: StepBatch) -> list[ColdAdapter]:
        if not batch.cpu_assist:
            return [ColdAdapter(arrival, None) for arrival in batch.cold.values()]
        profile, cold = self._profile, []
        for adapter, arrival in batch.cold.items():
            tokens = sum(chunk.num_tokens for chunk in batch.prefill if chunk.sequence.request.adapter == adapter)
            product_s = tokens * self._counter.adapter_flops[adapter] / profile.cpu_adapter_flops_per_s
            cold.append(ColdAdapter(arrival, product_s + self._num_layers * profile.cpu_handover_s))
        return cold

    def _adapter_seconds(self, batch: StepBatch) -> float:
        seconds = self._product_seconds(tokens_by_adapter(batch))
        if batch.prefill and self._charges_chunks:
            seconds += self._chunk_seconds(batch)
        if self._profile.adapter_gather_byte_s:
            seconds += self._counter.gathered_bytes(batch) * self._profile.adapter_gather_byte_s
        return seconds

    def _chunk_seconds(self, batch: StepBatch) -> float:
        """What a step with chunks takes beside the roofline, over what one without them does."""
        profile = self._profile
        seconds = len(batch.prefill) * profile.chunk_s
        seconds += chunk_adapters(batch) * profile.adapter_chunk_s + prefix_pairs(batch) * profile.prefix_pair_s
        if batch.decode:
            seconds += profile.mixed_s + adapter_mixed(batch) * profile.adapter_mixed_s
        return seconds

    def _product_seconds(self, tokens: dict[str | None, int]) -> float:
        if not tokens or tokens.keys() == {None}:
            return 0.0
        profile = self._profile
        flops, moved = self._counter.product_work(tokens)
        return profile.adapter_overhead_s + moved / profile.memory_bytes_per_s + flops / profile.flops_per_s

    def prefill_seconds(self, num_tokens: int) -> float:
        """The added cost of so many tokens in a step that runs anyway."""
        return num_tokens * self._counter.token_flops / self._profile.flops_per_s

    def step_seconds(self, adapters: Items[str | None], tokens_each: int) -> float:
        """Over ``ESTIMATED_CONTEXT`` tokens of context each."""
        size, tokens = len(adapters), len(adapters) * tokens_each
        context = size * (ESTIMATED_CONTEXT + tokens_each)
        seconds = self._step_seconds(tokens, size, context, tokens * ESTIMATED_CONTEXT, size)
        return seconds + self._product_seconds({name: tokens_each * count for name, count in Counter(adapters).items()})

    def describe(self) -> str:
        return f"simulated on {self._profile.name} ({self._profile.source})"
