"""Random models with a tokenizer and adapters, so that everything runs with no download."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from libra.errors import LibraError, unknown
from libra.model.config import ARCHITECTURES
from libra.model.tiny_tokenizer import END_OF_TEXT_ID, write_tokenizer
from libra.registry import Registry
from libra.spec import ATTENTION_MODULES, TARGET_MODULES, ModelSpec

TINY_SIZES: Registry[ModelSpec] = Registry("tiny model")
TINY_SIZES.add("tiny", ModelSpec("tiny", 3, 64, 4, 2, 16, 176, 512, dtype_bytes=4))
TINY_SIZES.add("32m", ModelSpec("32m", 8, 512, 8, 4, 64, 1408, 8192, dtype_bytes=4))

_MODEL_TYPES = dict(zip(ARCHITECTURES, ("llama", "mistral", "qwen2"), strict=True))
# What the adapters of a model for tests target, in turn.
MIXED_TARGETS = (TARGET_MODULES, ("q_proj", "v_proj"), ATTENTION_MODULES, ("gate_proj", "up_proj", "down_proj"))


@dataclass(frozen=True)
class TinyAdapters:
    """The adapters to write: ``ranks`` and ``targets`` are taken in turn, alpha is twice the rank.

    The second adapter is a rank-stabilised one (rsLoRA).
    """

    count: int = 8
    ranks: tuple[int, ...] = (16, 32)
    targets: tuple[tuple[str, ...], ...] = (TARGET_MODULES,)
    prefix: str = "adapter"

    def names(self) -> list[str]:
        return [f"{self.prefix}-{index:02d}" for index in range(self.count)]


def make_tiny(
    directory: Path,
    spec: ModelSpec,
    adapters: TinyAdapters,
    seed: int = 0,
    architecture: str = "LlamaForCausalLM",
    max_length: int = 4096,
    force: bool = False,
) -> list[Path]:
    """Writes a random model to ``directory`` and its adapters to ``directory/adapters/<name>``; returns the latter.

    The same arguments write the same weights. transformers and peft load all of it. Everything is written under a
    temporary name and then renamed. Raises LibraError for an unknown architecture, and when the directory is not empty
    (unless ``force``, which replaces it) or cannot be written.
    """
    if architecture not in _MODEL_TYPES:
        raise unknown("architecture", architecture, _MODEL_TYPES)
    if directory.exists() and not force and (not directory.is_dir() or any(directory.iterdir())):
        raise LibraError(f"{directory}: is not empty; choose another directory or use --force to replace it")
    generator = torch.Generator().manual_seed(seed)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
            root = Path(temporary) / directory.name
            _write_model(root, spec, architecture, max_length, generator)
            write_tokenizer(root, spec.vocab_size, max_length)
            write_adapters(root / "adapters", spec, adapters, generator)
            if directory.exists():
                shutil.rmtree(directory)
            root.rename(directory)
    except OSError as error:
        raise LibraError(f"{directory}: cannot be written ({error.strerror}); choose another directory") from error
    return [directory / "adapters" / name for name in adapters.names()]


def write_adapters(
    directory: Path, spec: ModelSpec, adapters: TinyAdapters, generator: torch.Generator | None = None
) -> list[Path]:
    """Writes random adapters to ``directory/<name>`` and returns their directories. Raises OSError."""
    generator = generator or torch.Generator().manual_seed(0)
    paths = [directory / name for name in adapters.names()]
    for index, path in enumerate(paths):
        _write_adapter(path, spec, adapters, index, generator)
    return paths


def _write_model(root: Path, spec: ModelSpec, architecture: str, max_length: int, generator: torch.Generator) -> None:
    root.mkdir()
    config = {
        "architectures": [architecture],
        "model_type": _MODEL_TYPES[architecture],
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": max_length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": spec.tied_embeddings,
        "sliding_window": None,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "torch_dtype": "float32",
    }
    write_json(root / "config.json", config)
    bias = architecture == "Qwen2ForCausalLM"
    tensors = dict(_model_tensors(spec, bias, generator))
    save_file(tensors, root / "model.safetensors", metadata={"format": "pt"})


def _model_tensors(spec: ModelSpec, bias: bool, generator: torch.Generator) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights that keep every layer's output at the size of its input, so that no layer is drowned by another and
    the next token depends on the whole context; with tied embeddings a smaller embedding keeps the model from
    repeating its last token."""

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    hidden_size = spec.hidden_size
    yield "model.embed_tokens.weight", normal(spec.vocab_size, hidden_size, scale=0.1 if spec.tied_embeddings else 1.0)
    for layer in range(spec.num_layers):
        prefix = f"model.layers.{layer}."
        for module in TARGET_MODULES:
            fan_in, fan_out = spec.module_shape(module)
            name = f"{prefix}{parent(module)}.{module}"
            yield f"{name}.weight", normal(fan_out, fan_in, scale=1.5 * fan_in**-0.5)
            if bias and module in ("q_proj", "k_proj", "v_proj"):
                yield f"{name}.bias", normal(fan_out, scale=0.3)
        yield f"{prefix}input_layernorm.weight", 1.0 + normal(hidden_size, scale=0.1)
        yield f"{prefix}post_attention_layernorm.weight", 1.0 + normal(hidden_size, scale=0.1)
    yield "model.norm.weight", 1.0 + normal(hidden_size, scale=0.1)
    if not spec.tied_embeddings:
        yield "lm_head.weight", normal(spec.vocab_size, hidden_size, scale=hidden_size**-0.5)


def _write_adapter(root: Path, spec: ModelSpec, adapters: TinyAdapters, index: int, generator: torch.Generator) -> None:
    rank = adapters.ranks[index % len(adapters.ranks)]
    targets = adapters.targets[index % len(adapters.targets)]
    rank_stabilised = index == 1
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": rank_stabilised,
        "target_modules": list(targets),
        "inference_mode": True,
    }
    # The product B A changes a module's output by about a fifth, under either scaling.
    scaling = 2 * rank / (rank**0.5 if rank_stabilised else rank)
    tensors = {}
    for layer in range(spec.num_layers):
        for module in targets:
            fan_in, fan_out = spec.module_shape(module)
            name = f"base_model.model.model.layers.{layer}.{parent(module)}.{module}"
            a = torch.randn(rank, fan_in, generator=generator) * fan_in**-0.5
            b = torch.randn(fan_out, rank, generator=generator) * (0.3 / scaling * rank**-0.5)
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a, b
    root.mkdir(parents=True)
    write_json(root / "adapter_config.json", config)
    save_file(tensors, root / "adapter_model.safetensors", metadata={"format": "pt"})


def parent(module: str) -> str:
    """The part of a layer that holds ``module`` in Hugging Face names."""
    return "self_attn" if module in ATTENTION_MODULES else "mlp"


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + os.linesep, encoding="utf-8")
