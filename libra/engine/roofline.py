"""The simulated executor: a step takes what the roofline of a profile says."""

from collections import Counter
from collections.abc import Sequence as Items
from functools import partial
from typing import NamedTuple

from libra.clock import Clock
from libra.engine.cold_start import ColdAdapter, step_end_s
from libra.engine.executor import Executor, StepBatch, StepResult
from libra.engine.profile import Profile
from libra.spec import AdapterSpec, ModelSpec

# What a running request is assumed to have behind it where no request is at hand.
ESTIMATED_CONTEXT = 512


class StepDemand(NamedTuple):
    """What a step asks of a device; ``Profile`` says what each of it costs.

    ``context_tokens``: those whose KV is read; ``prefix_pairs``: of a chunk's token and one before the chunk;
    ``adapter_chunks``: distinct adapters among the prefill chunks; ``mixed`` and ``adapter_mixed``: 1 where there are
    both chunks and decoding sequences, and both have adapters; ``first_uses`` of adapters since they were loaded, and
    their bytes; ``gathered_bytes``: the adapters of all decoding sequences, each for itself.
    """

    flops: float
    num_bytes: float
    adapter_flops: float
    adapter_bytes: float
    sequences: int
    context_tokens: float
    adapter_chunks: int = 0
    prefix_pairs: float = 0.0
    mixed: int = 0
    adapter_mixed: int = 0
    first_uses: int = 0
    first_bytes: float = 0.0
    gathered_bytes: float = 0.0


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
        # The generation of each adapter that was used last, where the first use costs something. Loads count from 1.
        self._used: dict[str | None, int] = {}
        self._charges_first_use = bool(profile.adapter_first_s or profile.adapter_first_byte_s)
        self._charges_chunks = bool(
            profile.prefix_pair_s or profile.mixed_s or profile.adapter_mixed_s or profile.adapter_chunk_s
        )

    def add_adapter(self, spec: AdapterSpec) -> None:
        self._adapter_bytes[spec.adapter_id] = spec.num_bytes(self._model)
        self._adapter_flops[spec.adapter_id] = 2.0 * spec.num_units(self._model) * spec.unit_elems(self._model)

    def remove_adapter(self, adapter_id: str) -> None:
        del self._adapter_bytes[adapter_id], self._adapter_flops[adapter_id]
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
        size, context = len(batch.decode), _decode_context(batch)
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
        work = self._mixed_work(batch, _decode_context(batch))
        return self._step_seconds(*work) + self._adapter_seconds(batch)

    def demand(self, batch: StepBatch, *, first_use: bool = False) -> StepDemand:
        """What one step over ``batch`` asks for: what a profile is fitted to. ``first_use``: of all its adapters."""
        tokens, samples, read, pairs, sequences = self._mixed_work(batch, _decode_context(batch))
        flops, moved = self._flops_and_bytes(tokens, samples, read, pairs)
        by_adapter = _tokens_by_adapter(batch)
        adapter_flops, adapter_bytes = self._product_work(by_adapter)
        first = [adapter for adapter in by_adapter if adapter is not None] if first_use else []
        return StepDemand(
            flops,
            moved,
            adapter_flops,
            adapter_bytes,
            sequences,
            read,
            _chunk_adapters(batch),
            _prefix_pairs(batch),
            bool(batch.decode and batch.prefill),
            _adapter_mixed(batch),
            len(first),
            float(sum([self._adapter_bytes[adapter] for adapter in first])),
            self._gathered_bytes(batch),
        )

    def _gathered_bytes(self, batch: StepBatch) -> float:
        adapters = [sequence.request.adapter for sequence in batch.decode]
        return float(sum([self._adapter_bytes[adapter] for adapter in adapters if adapter is not None]))

    def _first_use_seconds(self, batch: StepBatch) -> float:
        """What it takes to use the adapters of ``batch`` that have been loaded since they were used; now they have."""
        seconds, profile = 0.0, self._profile
        for sequence in (*batch.decode, *(chunk.sequence for chunk in batch.prefill)):
            adapter, generation = sequence.adapter_id, sequence.adapter_generation
            if adapter is not None and self._used.get(adapter, 0) != generation:
                self._used[adapter] = generation
                seconds += profile.adapter_first_s + self._adapter_bytes[adapter] * profile.adapter_first_byte_s
        return seconds

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
        seconds = self._product_seconds(_tokens_by_adapter(batch))
        if batch.prefill and self._charges_chunks:
            seconds += self._chunk_seconds(batch)
        if self._profile.adapter_gather_byte_s:
            seconds += self._gathered_bytes(batch) * self._profile.adapter_gather_byte_s
        return seconds

    def _chunk_seconds(self, batch: StepBatch) -> float:
        """What a step with chunks takes beside the roofline, over what one without them does."""
        profile = self._profile
        seconds = _chunk_adapters(batch) * profile.adapter_chunk_s + _prefix_pairs(batch) * profile.prefix_pair_s
        if batch.decode:
            seconds += profile.mixed_s + _adapter_mixed(batch) * profile.adapter_mixed_s
        return seconds

    def _product_seconds(self, tokens: dict[str | None, int]) -> float:
        if not tokens or tokens.keys() == {None}:
            return 0.0
        profile = self._profile
        flops, moved = self._product_work(tokens)
        return profile.adapter_overhead_s + moved / profile.memory_bytes_per_s + flops / profile.flops_per_s

    def _product_work(self, tokens: dict[str | None, int]) -> tuple[float, float]:
        """Flops and bytes: each distinct adapter's weights are read once, and each token is multiplied with its own
        adapter's."""
        flops = moved = 0.0
        for adapter, count in tokens.items():
            if adapter is not None:
                flops += count * self._adapter_flops[adapter]
                moved += self._adapter_bytes[adapter]
        return flops, moved

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


def _decode_context(batch: StepBatch) -> int:
    """Tokens whose KV one step of the decoding sequences reads, the new ones among them."""
    return sum([sequence.num_computed for sequence in batch.decode]) + len(batch.decode)


def _chunk_adapters(batch: StepBatch) -> int:
    """Distinct adapters among the prefill chunks."""
    return len({chunk.sequence.request.adapter for chunk in batch.prefill} - {None})


def _prefix_pairs(batch: StepBatch) -> float:
    return float(sum([chunk.num_tokens * chunk.sequence.num_computed for chunk in batch.prefill]))


def _adapter_mixed(batch: StepBatch) -> bool:
    """Whether both decoding sequences and chunks have adapters."""
    return _chunk_adapters(batch) > 0 and any(one.request.adapter is not None for one in batch.decode)


def _tokens_by_adapter(batch: StepBatch) -> dict[str | None, int]:
    tokens: dict[str | None, int] = {}
    for sequence in batch.decode:
        adapter = sequence.request.adapter
        tokens[adapter] = tokens.get(adapter, 0) + 1
    for chunk in batch.prefill:
        adapter = chunk.sequence.request.adapter
        tokens[adapter] = tokens.get(adapter, 0) + chunk.num_tokens
    return tokens
