"""The simulated executor: a step takes what the roofline of a profile says."""

from libra.clock import Clock
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.profile import Profile
from libra.spec import AdapterSpec, ModelSpec


class RooflineExecutor(Executor):
    """Advances the clock by the cost of each step and yields no tokens (replays bring their own)."""

    def __init__(self, clock: Clock, profile: Profile, model: ModelSpec, adapters: list[AdapterSpec]) -> None:
        self._clock = clock
        self._profile = profile
        self._adapter_bytes: dict[str | None, int] = {spec.adapter_id: spec.num_bytes(model) for spec in adapters}
        self._adapter_flops: dict[str | None, float] = {
            spec.adapter_id: 2.0 * spec.num_units(model) * spec.unit_elems(model) for spec in adapters
        }
        head = model.vocab_size * model.hidden_size
        self._weight_bytes = float((model.num_layers * model.layer_params + head) * model.dtype_bytes)
        self._token_flops = 2.0 * model.num_layers * model.layer_params
        self._sample_flops = 2.0 * head
        self._attention_flops = 4.0 * model.num_layers * model.num_heads * model.head_dim
        self._kv_bytes = float(model.kv_bytes_per_token)

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        context = sum(sequence.num_computed + 1 for sequence in batch.decode)
        size = len(batch.decode)
        adapters = self._adapter_seconds(batch)
        now_s = self._clock.now()
        ends: list[float] = []
        if batch.prefill:
            ends.append(now_s + self._mixed_seconds(batch, context) + adapters)
        else:
            while len(ends) < max_steps and (not ends or now_s < until_s):
                now_s += self._step_seconds(size, size, context, context) + adapters
                ends.append(now_s)
                context += size
        self._clock.advance_to(ends[-1])
        return StepResult(ends, [])

    def _mixed_seconds(self, batch: StepBatch, decode_context: int) -> float:
        """Prefill chunks and decodes together. A chunk of n tokens after p reads p + n of KV and attends to
        n * (p + (n + 1) / 2) pairs."""
        tokens = samples = len(batch.decode)
        read, pairs = float(decode_context), float(decode_context)
        for chunk in batch.prefill:
            done, count = chunk.sequence.num_computed, chunk.num_tokens
            tokens += count
            samples += chunk.is_last
            read += done + count
            pairs += count * (done + (count + 1) / 2)
        return self._step_seconds(tokens, samples, read, pairs)

    def _step_seconds(self, tokens: int, samples: int, kv_read: float, attention_pairs: float) -> float:
        profile = self._profile
        flops = tokens * self._token_flops + samples * self._sample_flops + attention_pairs * self._attention_flops
        moved = self._weight_bytes + (kv_read + tokens) * self._kv_bytes
        busy = max(flops / profile.flops_per_s, moved / profile.memory_bytes_per_s)
        communication = profile.communication_per_step_s + tokens * profile.communication_per_token_s
        return profile.step_overhead_s + busy + communication

    def _adapter_seconds(self, batch: StepBatch) -> float:
        """Each distinct adapter's weights are read once, and each token is multiplied with its own adapter's."""
        tokens: dict[str | None, int] = {}
        for sequence in batch.decode:
            adapter = sequence.request.adapter
            tokens[adapter] = tokens.get(adapter, 0) + 1
        for chunk in batch.prefill:
            adapter = chunk.sequence.request.adapter
            tokens[adapter] = tokens.get(adapter, 0) + chunk.num_tokens
        tokens.pop(None, None)
        if not tokens:
            return 0.0
        profile = self._profile
        moved = sum(self._adapter_bytes[adapter] for adapter in tokens)
        flops = sum(count * self._adapter_flops[adapter] for adapter, count in tokens.items())
        return profile.adapter_overhead_s + moved / profile.memory_bytes_per_s + flops / profile.flops_per_s

    def prefill_seconds(self, num_tokens: int) -> float:
        """The added cost of so many tokens in a step that runs anyway."""
        return num_tokens * self._token_flops / self._profile.flops_per_s

    def describe(self) -> str:
        return f"simulated on {self._profile.name} ({self._profile.source})"
