"""What a step asks of a device: floating-point operations, bytes, and all else that a profile has a price for."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from libra.engine.executor import StepBatch
from libra.spec import AdapterSpec, ModelSpec


class StepDemand(NamedTuple):
    """What a step asks of a device; ``Profile`` says what each of it costs.

    ``context_tokens``: those whose KV is read; ``several``: 1 where the step has more than one token; ``chunks``: of
    prompts; ``adapter_chunks``: distinct adapters among them; ``prefix_pairs``: of a chunk's token and one before the
    chunk; ``mixed`` and ``adapter_mixed``: 1 where there are both chunks and decoding sequences, and both have
    adapters; ``first_uses`` of adapters since they were loaded, and their bytes; ``gathered_bytes``: the adapters of
    all decoding sequences, each for itself.
    """

    flops: float
    num_bytes: float
    adapter_flops: float
    adapter_bytes: float
    sequences: int
    context_tokens: float
    several: int = 0
    chunks: int = 0
    adapter_chunks: int = 0
    prefix_pairs: float = 0.0
    mixed: int = 0
    adapter_mixed: int = 0
    first_uses: int = 0
    first_bytes: float = 0.0
    gathered_bytes: float = 0.0


class StepWork(NamedTuple):
    """A step's ``tokens``, ``samples`` and ``sequences``, the tokens whose KV it reads, and its attention pairs."""

    tokens: int
    samples: int
    kv_read: float
    attention_pairs: float
    sequences: int


class StepCounter:
    """Counts what steps of one model with some adapters ask for."""

    def __init__(self, model: ModelSpec, adapters: Iterable[AdapterSpec]) -> None:
        self.adapter_bytes: dict[str | None, int] = {}
        self.adapter_flops: dict[str | None, float] = {}
        self._model = model
        for spec in adapters:
            self.add_adapter(spec)
        head = model.vocab_size * model.hidden_size
        self._weight_bytes = float((model.num_layers * model.layer_params + head) * model.dtype_bytes)
        self.token_flops = 2.0 * model.num_layers * model.layer_params
        self._sample_flops = 2.0 * head
        self._attention_flops = 4.0 * model.num_layers * model.num_heads * model.head_dim
        self._kv_bytes = float(model.kv_bytes_per_token)

    def add_adapter(self, spec: AdapterSpec) -> None:
        self.adapter_bytes[spec.adapter_id] = spec.num_bytes(self._model)
        self.adapter_flops[spec.adapter_id] = 2.0 * spec.num_units(self._model) * spec.unit_elems(self._model)

    def remove_adapter(self, adapter_id: str) -> None:
        del self.adapter_bytes[adapter_id], self.adapter_flops[adapter_id]

    def demand(self, batch: StepBatch, first_used: Collection[str] = ()) -> StepDemand:
        """What one step over ``batch`` asks for: what a profile is fitted to. ``first_used``: the adapters of it that
        have not been used since they were loaded."""
        work = work_of(batch, decode_context(batch))
        flops, moved = self.flops_and_bytes(work.tokens, work.samples, work.kv_read, work.attention_pairs)
        adapter_flops, adapter_bytes = self.product_work(tokens_by_adapter(batch))
        return StepDemand(
            flops,
            moved,
            adapter_flops,
            adapter_bytes,
            work.sequences,
            work.kv_read,
            work.tokens > 1,
            len(batch.prefill),
            chunk_adapters(batch),
            prefix_pairs(batch),
            bool(batch.decode and batch.prefill),
            adapter_mixed(batch),
            len(first_used),
            float(sum([self.adapter_bytes[adapter] for adapter in first_used])),
            self.gathered_bytes(batch),
        )

    def flops_and_bytes(self, tokens: int, samples: int, kv_read: float, attention_pairs: float) -> tuple[float, float]:
        """Of the base model."""
        flops = tokens * self.token_flops + samples * self._sample_flops + attention_pairs * self._attention_flops
        return flops, self._weight_bytes + (kv_read + tokens) * self._kv_bytes

    def product_work(self, tokens: dict[str | None, int]) -> tuple[float, float]:
        """Flops and bytes: each distinct adapter's weights are read once, and each token is multiplied with its own
        adapter's."""
        flops = moved = 0.0
        for adapter, count in tokens.items():
            if adapter is not None:
                flops += count * self.adapter_flops[adapter]
                moved += self.adapter_bytes[adapter]
        return flops, moved

    def gathered_bytes(self, batch: StepBatch) -> float:
        """The adapters of all decoding sequences, each for itself."""
        adapters = [sequence.request.adapter for sequence in batch.decode]
        return float(sum([self.adapter_bytes[adapter] for adapter in adapters if adapter is not None]))


def decode_context(batch: StepBatch) -> int:
    """Tokens whose KV one step of the decoding sequences reads, the new ones among them."""
    return sum([sequence.num_computed for sequence in batch.decode]) + len(batch.decode)


def work_of(batch: StepBatch, context: int) -> StepWork:
    """Prefill chunks and decodes together, ``context`` being the decodes'. A chunk of n tokens after p reads p + n of
    KV and attends to n * (p + (n + 1) / 2) pairs."""
    tokens = samples = len(batch.decode)
    read, pairs = float(context), float(context)
    for chunk in batch.prefill:
        done, count = chunk.sequence.num_computed, chunk.num_tokens
        tokens += count
        samples += chunk.is_last
        read += done + count
        pairs += count * (done + (count + 1) / 2)
    return StepWork(tokens, samples, read, pairs, len(batch.decode) + len(batch.prefill))


def tokens_by_adapter(batch: StepBatch) -> dict[str | None, int]:
    tokens: dict[str | None, int] = {}
    for sequence in batch.decode:
        adapter = sequence.request.adapter
        tokens[adapter] = tokens.get(adapter, 0) + 1
    for chunk in batch.prefill:
        adapter = chunk.sequence.request.adapter
        tokens[adapter] = tokens.get(adapter, 0) + chunk.num_tokens
    return tokens


def chunk_adapters(batch: StepBatch) -> int:
    """Distinct adapters among the prefill chunks."""
    return len({chunk.sequence.request.adapter for chunk in batch.prefill} - {None})


def prefix_pairs(batch: StepBatch) -> float:
    return float(sum([chunk.num_tokens * chunk.sequence.num_computed for chunk in batch.prefill]))


def adapter_mixed(batch: StepBatch) -> bool:
    """Whether both decoding sequences and chunks have adapters."""
    return chunk_adapters(batch) > 0 and any(one.request.adapter is not None for one in batch.decode)
