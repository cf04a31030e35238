"""A model and adapters of random weights, made where they are computed with: full-size shapes without a download."""

from collections.abc import Iterator
from pathlib import Path

import torch

from libra.errors import unknown
from libra.model.adapter_weights import AdapterWeights
from libra.model.backend import Backend
from libra.model.config import ModelConfig, RopeConfig
from libra.model.linear import LinearMap, make_linear
from libra.model.llama import DecoderLayer, LlamaModel
from libra.model.packing import UnitLayout
from libra.spec import AdapterSpec, ModelSpec

MAX_LENGTH = 8192
_THETA = 500_000.0
# What initialisations of such models use; A x is then of the size of x, and B A x a fraction of what it is added to.
_WEIGHT_STD = 0.02


def random_model(
    spec: ModelSpec,
    dtype: torch.dtype,
    device: torch.device,
    backend: Backend | None = None,
    seed: int = 0,
    max_length: int = MAX_LENGTH,
) -> LlamaModel:
    """A Llama of these shapes. The same arguments give the same weights on the same kind of device.

    Raises torch.OutOfMemoryError, or MemoryError, when the device cannot hold it.
    """
    weights = _Weights(dtype, device, seed)
    hidden = spec.hidden_size
    shapes = {module: spec.module_shape(module) for module in ("q_proj", "k_proj", "gate_proj")}
    query, key_value, inner = (shape[1] for shape in shapes.values())
    embedding = weights.normal(spec.vocab_size, hidden)
    layers = [
        DecoderLayer(
            input_norm=weights.ones(hidden),
            qkv=weights.linear(query + 2 * key_value, hidden),
            output=weights.linear(hidden, query),
            post_norm=weights.ones(hidden),
            gate_up=weights.linear(2 * inner, hidden),
            down=weights.linear(hidden, inner),
        )
        for _ in range(spec.num_layers)
    ]
    head = make_linear(embedding) if spec.tied_embeddings else weights.linear(spec.vocab_size, hidden)
    name = str(dtype).removeprefix("torch.")
    return LlamaModel(_config(spec, name, max_length), embedding, layers, weights.ones(hidden), head, backend)


def _config(spec: ModelSpec, dtype: str, max_length: int) -> ModelConfig:
    return ModelConfig(
        directory=Path(spec.name),
        architecture="LlamaForCausalLM",
        spec=spec,
        dtype=dtype,
        rms_norm_eps=1e-5,
        rope=RopeConfig(_THETA),
        max_length=max_length,
        qkv_bias=False,
        output_bias=False,
        eos_token_ids=(),
    )


class _Weights:
    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        self._dtype = dtype
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int) -> torch.Tensor:
        empty = torch.empty(shape, dtype=self._dtype, device=self._device)
        return empty.normal_(std=_WEIGHT_STD, generator=self._generator)

    def linear(self, fan_out: int, fan_in: int) -> LinearMap:
        return make_linear(self.normal(fan_out, fan_in))

    def ones(self, size: int) -> torch.Tensor:
        return torch.ones(size, dtype=self._dtype, device=self._device)


class RandomAdapters(AdapterWeights):
    """Adapters ``lora-00``, ``lora-01``, ... of the given ranks, in turn. Each is the same whenever it is asked for."""

    def __init__(
        self,
        model: ModelSpec,
        block_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        count: int,
        ranks: tuple[int, ...],
    ) -> None:
        """Raises LibraError for a block too small for one rank row of a layer."""
        names = [f"lora-{index:02d}" for index in range(count)]
        specs = [AdapterSpec(name, ranks[index % len(ranks)]) for index, name in enumerate(names)]
        self._layouts = {spec.adapter_id: UnitLayout.of(spec, model, block_tokens) for spec in specs}
        self._dtype = dtype
        self._device = device

    def packed(self, adapter_id: str) -> torch.Tensor:
        if adapter_id not in self._layouts:
            raise unknown("adapter", adapter_id, self._layouts)
        layout = self._layouts[adapter_id]
        generator = torch.Generator(self._device).manual_seed(1 + list(self._layouts).index(adapter_id))
        shape = (layout.num_blocks, layout.block_elems)
        blocks = torch.empty(shape, dtype=self._dtype, device=self._device)
        return blocks.normal_(std=_WEIGHT_STD, generator=generator)

    def __getitem__(self, adapter_id: str) -> AdapterSpec:
        return self._layouts[adapter_id].spec

    def __iter__(self) -> Iterator[str]:
        return iter(self._layouts)

    def __len__(self) -> int:
        return len(self._layouts)
