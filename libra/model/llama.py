"""The forward pass of Llama, Mistral and Qwen2 over paged KV, with the adapters of a mixed batch.

The order of operations is that of transformers, so that greedy tokens in float32 are the same.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from libra.model.backend import Backend, TorchBackend
from libra.model.config import ModelConfig, read_config
from libra.model.linear import LinearMap, make_linear
from libra.model.lora import DOWN, GATE_UP, OUTPUT, QKV, ActiveAdapters
from libra.model.paged_kv import PagedKV
from libra.model.rope import inverse_frequencies, rotations
from libra.model.weights import Checkpoint

# Buffers of old checkpoints that are computed here; a tied model may store its head twice.
_HARMLESS_TENSORS = ("rotary_emb.inv_freq",)


@dataclass(frozen=True)
class DecoderLayer:
    """Weights of one layer. q, k and v are one product, as are gate and up."""

    input_norm: torch.Tensor
    qkv: LinearMap
    output: LinearMap
    post_norm: torch.Tensor
    gate_up: LinearMap
    down: LinearMap


@dataclass(frozen=True)
class StepInputs:
    """``tokens`` and ``positions`` int64 [tokens]; ``output_rows`` int64: the tokens whose logits are wanted, all of
    them or some in order; ``attention``: as the model's backend planned it."""

    tokens: torch.Tensor
    positions: torch.Tensor
    output_rows: torch.Tensor
    attention: Any


class LlamaModel:
    """A model's weights, ready to compute. It holds no KV and no adapters: a step brings both."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: torch.Tensor,
        layers: list[DecoderLayer],
        final_norm: torch.Tensor,
        head: LinearMap,
        backend: Backend | None = None,
    ) -> None:
        """``backend`` None is torch."""
        self.config = config
        self.spec = config.spec
        self.backend = backend or TorchBackend()
        self.dtype = embedding.dtype
        self._embedding = embedding
        self._layers = layers
        self._final_norm = final_norm
        self._head = head
        self._frequencies = inverse_frequencies(config.rope, config.spec.head_dim).to(embedding.device)

    def with_backend(self, backend: Backend) -> "LlamaModel":
        """The same weights, computed with by another backend."""
        other = copy.copy(self)
        other.backend = backend
        return other

    @torch.inference_mode()
    def multiply_each(self, num_rows: int) -> None:
        """Computes every product with weights that a step of ``num_rows`` has, once: layers are alike, and what is
        compiled for one serves all."""
        layer, spec = self._layers[0], self.spec
        hidden = torch.zeros(num_rows, spec.hidden_size, dtype=self.dtype)
        layer.qkv(hidden)
        layer.output(hidden.new_zeros(num_rows, spec.num_heads * spec.head_dim))
        layer.gate_up(hidden)
        layer.down(hidden.new_zeros(num_rows, spec.intermediate_size))
        self._head(hidden)

    @torch.inference_mode()
    def forward(self, step: StepInputs, kv: PagedKV, adapters: ActiveAdapters | None) -> torch.Tensor:
        """Logits [output rows, vocabulary] in float32. Mutates the pool: the step's tokens get their KV."""
        cos, sin = rotations(step.positions, self._frequencies, self.dtype)
        hidden = F.embedding(step.tokens, self._embedding)
        delta = None
        narrows = len(step.output_rows) < len(hidden)
        for index, layer in enumerate(self._layers):
            # A layer's output joins the residual stream where the next norm reads it.
            normed = self._add_norm(hidden, delta, layer.input_norm)
            attended = self._attend(index, layer, normed, cos, sin, step.attention, kv, adapters)
            if narrows and layer is self._layers[-1]:
                # All tokens have their KV now, and of the last layer's output only these rows are read.
                hidden, attended = (rows.index_select(0, step.output_rows) for rows in (hidden, attended))
                adapters = None if adapters is None else adapters.outputs
            delta = layer.output(attended)
            if adapters is not None:
                adapters.add(index, OUTPUT, attended, delta)
            normed = self._add_norm(hidden, delta, layer.post_norm)
            delta = self._mlp(index, layer, normed, adapters)
        return self._head(self._add_norm(hidden, delta, self._final_norm)).float()

    def _attend(
        self,
        index: int,
        layer: DecoderLayer,
        normed: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        plan: Any,
        kv: PagedKV,
        adapters: ActiveAdapters | None,
    ) -> torch.Tensor:
        qkv = layer.qkv(normed)
        if adapters is not None:
            adapters.add(index, QKV, normed, qkv)
        heads = qkv.view(qkv.shape[0], -1, self.spec.head_dim)
        return self.backend.attend(plan, kv, index, heads, cos, sin)

    def _mlp(
        self, index: int, layer: DecoderLayer, normed: torch.Tensor, adapters: ActiveAdapters | None
    ) -> torch.Tensor:
        gate_up = layer.gate_up(normed)
        if adapters is not None:
            adapters.add(index, GATE_UP, normed, gate_up)
        activated = self.backend.gate(gate_up)
        output = layer.down(activated)
        if adapters is not None:
            adapters.add(index, DOWN, activated, output)
        return output

    def _add_norm(self, hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
        return self.backend.add_norm(hidden, delta, weight, self.config.rms_norm_eps)


def load_model(
    directory: Path,
    dtype: str = "float32",
    prepack: bool = True,
    backend: Backend | None = None,
    device: torch.device | None = None,
) -> LlamaModel:
    """Reads a Hugging Face directory. ``prepack`` False keeps the weights as they are stored (see ``make_linear``).
    ``backend`` None is torch, ``device`` None the CPU.

    Raises LibraError for whatever ``read_config`` and ``Checkpoint`` do.
    """
    config = read_config(directory, dtype)
    return _Loader(config, Checkpoint(directory), getattr(torch, dtype), prepack, backend, device).load()


class _Loader:
    """Reads the tensors that the architecture has, remembering their names to find those left over."""

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        prepack: bool,
        backend: Backend | None,
        device: torch.device | None,
    ) -> None:
        self._backend = backend
        self._device = device
        self._config = config
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._prepack = prepack
        self._used: set[str] = set()

    def load(self) -> LlamaModel:
        spec = self._config.spec
        embedding = self._tensor("model.embed_tokens.weight", spec.vocab_size, spec.hidden_size)
        layers = [self._layer(f"model.layers.{index}.") for index in range(spec.num_layers)]
        final_norm = self._tensor("model.norm.weight", spec.hidden_size)
        head = embedding
        if spec.tied_embeddings:
            self._used.add("lm_head.weight")
        else:
            head = self._tensor("lm_head.weight", spec.vocab_size, spec.hidden_size)
        self._checkpoint.check_unused(self._used, _HARMLESS_TENSORS)
        head_map = make_linear(head, None, self._prepack)
        return LlamaModel(self._config, embedding, layers, final_norm, head_map, self._backend)

    def _layer(self, prefix: str) -> DecoderLayer:
        hidden_size, config = self._config.spec.hidden_size, self._config
        return DecoderLayer(
            input_norm=self._tensor(prefix + "input_layernorm.weight", hidden_size),
            qkv=self._linear(prefix + "self_attn.", ("q_proj", "k_proj", "v_proj"), config.qkv_bias),
            output=self._linear(prefix + "self_attn.", ("o_proj",), config.output_bias),
            post_norm=self._tensor(prefix + "post_attention_layernorm.weight", hidden_size),
            gate_up=self._linear(prefix + "mlp.", ("gate_proj", "up_proj"), bias=False),
            down=self._linear(prefix + "mlp.", ("down_proj",), bias=False),
        )

    def _linear(self, prefix: str, modules: tuple[str, ...], bias: bool) -> LinearMap:
        shapes = {module: self._config.spec.module_shape(module) for module in modules}
        weights = [self._tensor(f"{prefix}{name}.weight", out, fan_in) for name, (fan_in, out) in shapes.items()]
        biases = [self._tensor(f"{prefix}{name}.bias", out) for name, (_, out) in shapes.items()] if bias else []
        return make_linear(torch.cat(weights), torch.cat(biases) if bias else None, self._prepack)

    def _tensor(self, name: str, *shape: int) -> torch.Tensor:
        self._used.add(name)
        tensor = self._checkpoint.tensor(name, shape, self._dtype)
        return tensor if self._device is None else tensor.to(self._device)
