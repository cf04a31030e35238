"""The simulated executor: a step takes what the roofline of a profile says."""

from collections import Counter
from collections.abc import Sequence as Items
from typing import NamedTuple

from libra.clock import Clock
from libra.engine.cold_start import ColdAdapter, step_end_s
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.profile import Profile
from libra.spec import AdapterSpec, ModelSpec

# What a running request is assumed to have behind it where no request is at hand.
ESTIMATED_CONTEXT = 512


class StepDemand(NamedTuple):
    """What a step asks of a device; ``Profile`` says what each of it costs. ``context_tokens``: those whose KV is
    read."""

    flops: float
    num_bytes: float
    adapter_flops: float
    adapter_bytes: float
    sequences: int
    context_tokens: float


class RooflineExecutor(Executor):
    """Advances the clock by the cost of each step and yields no tokens (replays bring their own)."""

    def __init__(self, clock: Clock, profile: Profile, model: ModelSpec, adapters: list[AdapterSpec]) -> None:
        self._clock = clock
        self._profile = profile
        self._model = model
        self._adapter_bytes: dict[str | None, int] = {}
        self._adapter_flops: dict[str | None, float] = {}
        for spec in adapters:
            self.add_adapter(spec)
        self._num_layers = model.num_layers
        head = model.vocab_size * model.hidden_size
        self._weight_bytes = float((model.num_layers * model.layer_params + head) * model.dtype_bytes)
        self._token_flops = 2.0 * model.num_layers * model.layer_params
        self._sample_flops = 2.0 * head
        self._attention_flops = 4.0 * model.num_layers * model.num_heads * model.head_dim
        self._kv_bytes = float(model.kv_bytes_per_token)

    def add_adapter(self, spec: AdapterSpec) -> None:
        self._adapter_bytes[spec.adapter_id] = spec.num_bytes(self._model)
        self._adapter_flops[spec.adapter_id] = 2.0 * spec.num_units(self._model) * spec.unit_elems(self._model)

    def remove_adapter(self, adapter_id: str) -> None:
        del self._adapter_bytes[adapter_id], self._adapter_flops[adapter_id]

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        context = sum(sequence.num_computed + 1 for sequence in batch.decode)
        size = len(batch.decode)
        adapters = self._adapter_seconds(batch)
        now_s = self._clock.now()
        ends: list[float] = []
        if batch.prefill:
            seconds = self._step_seconds(*self._mixed_work(batch, context)) + adapters
            cold = self._cold_adapters(batch)
            ends.append(step_end_s(now_s, seconds, self._num_layers, cold) if cold else now_s + seconds)
        else:
            while len(ends) < max_steps and (not ends or now_s < until_s):
                now_s += self._step_seconds(size, size, context, context, size) + adapters
                ends.append(now_s)
                context += size
        self._clock.advance_to(ends[-1])
        return StepResult(ends, [])

    def seconds(self, batch: StepBatch) -> float:
        """What one step over ``batch`` takes when its adapters are in HBM. The clock stays where it is."""
        context = sum(sequence.num_computed + 1 for sequence in batch.decode)
        return self._step_seconds(*self._mixed_work(batch, context)) + self._adapter_seconds(batch)

    def demand(self, batch: StepBatch) -> StepDemand:
        """What one step over ``batch`` asks for: what a profile is fitted to."""
        context = sum(sequence.num_computed + 1 for sequence in batch.decode)
        tokens, samples, read, pairs, sequences = self._mixed_work(batch, context)
        flops, moved = self._flops_and_bytes(tokens, samples, read, pairs)
        adapter_flops, adapter_bytes = self._product_work(_tokens_by_adapter(batch))
        return StepDemand(flops, moved, adapter_flops, adapter_bytes, sequences, read)

    def _mixed_work(self, batch: StepBatch, decode_context: int) -> tuple[int, int, float, float, int]:
        """Tokens, samples, KV tokens read, attention pairs and sequences of prefill chunks and decodes together. A
        chunk of n tokens after p reads p + n of KV and attends to n * (p + (n + 1) / 2) pairs."""
        tokens = samples = len(batch.decode)
        read, pairs = float(decode_context), float(decode_context)
        for chunk in batch.prefill:
            done, count = chunk.sequence.num_computed, chunk.num_tokens
            tokens += count
            samples += chunk.is_last
            read += done + count
            pairs += count * (done + (count + 1) / 2)
        return tokens, samples, read, pairs, len(batch.decode) + len(batch.prefill)

    def _flops_and_bytes(
        self, tokens: int, samples: int, kv_read: float, attention_pairs: float
    ) -> tuple[float, float]:
        flops = tokens * self._token_flops + samples * self._sample_flops + attention_pairs * self._attention_flops
        return flops, self._weight_bytes + (kv_read + tokens) * self._kv_bytes

    def _step_seconds(self, tokens: int, samples: int, kv_read: float, attention_pairs: float, sequences: int) -> float:
        profile = self._profile
        flops, moved = self._flops_and_bytes(tokens, samples, kv_read, attention_pairs)
        busy = max(flops / profile.flops_per_s, moved / profile.memory_bytes_per_s)
        communication = profile.communication_per_step_s + tokens * profile.communication_per_token_s
        beyond = sequences * profile.sequence_s + kv_read * profile.context_token_s
        return profile.step_overhead_s + busy + communication + beyond

    def _cold_adapters(self, batch: StepBatch) -> list[ColdAdapter]:
        if not batch.cpu_assist:
            return [ColdAdapter(arrival, None) for arrival in batch.cold.values()]
        profile, cold = self._profile, []
        for adapter, arrival in batch.cold.items():
            tokens = sum(chunk.num_tokens for chunk in batch.prefill if chunk.sequence.request.adapter == adapter)
            product_s = tokens * self._adapter_flops[adapter] / profile.cpu_adapter_flops_per_s
            cold.append(ColdAdapter(arrival, product_s + self._num_layers * profile.cpu_handover_s))
        return cold

    def _adapter_seconds(self, batch: StepBatch) -> float:
        return self._product_seconds(_tokens_by_adapter(batch))

    def _product_seconds(self, tokens: dict[str | None, int]) -> float:
        if not any(adapter is not None for adapter in tokens):
            return 0.0
        profile = self._profile
        flops, moved = self._product_work(tokens)
        return profile.adapter_overhead_s + moved / profile.memory_bytes_per_s + flops / profile.flops_per_s

    def _product_work(self, tokens: dict[str | None, int]) -> tuple[float, float]:
        """Flops and bytes: each distinct adapter's weights are read once, and each token is multiplied with its own
        adapter's."""
        used = {adapter: count for adapter, count in tokens.items() if adapter is not None}
        flops = sum(count * self._adapter_flops[adapter] for adapter, count in used.items())
        return flops, sum(self._adapter_bytes[adapter] for adapter in used)

    def prefill_seconds(self, num_tokens: int) -> float:
        """The added cost of so many tokens in a step that runs anyway."""
        return num_tokens * self._token_flops / self._profile.flops_per_s

    def step_seconds(self, adapters: Items[str | None], tokens_each: int) -> float:
        """Over ``ESTIMATED_CONTEXT`` tokens of context each."""
        size, tokens = len(adapters), len(adapters) * tokens_each
        context = size * (ESTIMATED_CONTEXT + tokens_each)
        seconds = self._step_seconds(tokens, size, context, tokens * ESTIMATED_CONTEXT, size)
        return seconds + self._product_seconds({name: tokens_each * count for name, count in Counter(adapters).items()})

    def describe(self) -> str:
        return f"simulated on {self._profile.name} ({self._profile.source})"


def _tokens_by_adapter(batch: StepBatch) -> dict[str | None, int]:
    tokens: dict[str | None, int] = {}
    for sequence in batch.decode:
        adapter = sequence.request.adapter
        tokens[adapter] = tokens.get(adapter, 0) + 1
    for chunk in batch.prefill:
        adapter = chunk.sequence.request.adapter
        tokens[adapter] = tokens.get(adapter, 0) + chunk.num_tokens
    return tokens
