"""What the forward pass must know of a model, read from a Hugging Face ``config.json``. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libra.errors import LibraError, unknown
from libra.model.files import read_json
from libra.spec import ModelSpec

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding. ``kind`` is default, linear or llama3; the fields after ``factor`` are llama3's alone."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_length: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """A model directory's config.

    ``max_length`` is the longest context that is computed exactly: the model's own limit, or its sliding window where
    that is shorter, since within the window such attention is plain causal attention.
    """

    directory: Path
    architecture: str
    spec: ModelSpec
    dtype: str
    rms_norm_eps: float
    rope: RopeConfig
    max_length: int
    qkv_bias: bool
    output_bias: bool
    eos_token_ids: tuple[int, ...]


def read_config(directory: Path, dtype: str = "float32") -> ModelConfig:
    """Reads ``directory/config.json``; ``dtype`` is the one to compute in, not the one stored.

    Raises LibraError for a missing file or key, and by name for whatever is not supported.
    """
    if dtype not in DTYPE_BYTES:
        raise unknown("dtype", dtype, DTYPE_BYTES)
    path = directory / "config.json"
    config = read_json(path)
    architecture = _supported_architecture(path, config)
    spec = _shapes(path, config, directory.resolve().name, dtype)
    attention_bias = bool(config.get("attention_bias", False))
    return ModelConfig(
        directory=directory,
        architecture=architecture,
        spec=spec,
        dtype=dtype,
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope=_rope(path, config),
        max_length=_max_length(path, config, architecture),
        qkv_bias=architecture == "Qwen2ForCausalLM" or attention_bias,
        output_bias=attention_bias and architecture == "LlamaForCausalLM",
        eos_token_ids=_token_ids(config.get("eos_token_id")),
    )


def _supported_architecture(path: Path, config: dict[str, Any]) -> str:
    """The architecture's name; raises LibraError when it, or a variation of it, is not supported."""
    names = config.get("architectures") or ["(none)"]
    if names[0] not in ARCHITECTURES:
        raise LibraError(f"{path}: architecture {names[0]} is not supported; use one of {', '.join(ARCHITECTURES)}")
    variations = {
        "quantization_config": None,
        "hidden_act": "silu",
        "mlp_bias": False,
        "partial_rotary_factor": 1.0,
    }
    for key, supported in variations.items():
        if config.get(key, supported) not in (supported, None):
            raise LibraError(f"{path}: {key} = {config[key]!r} is not supported; use a model with {key} = {supported}")
    return str(names[0])


def _shapes(path: Path, config: dict[str, Any], name: str, dtype: str) -> ModelSpec:
    hidden_size, num_heads = _positive(path, config, "hidden_size"), _positive(path, config, "num_attention_heads")
    num_kv_heads = int(config.get("num_key_value_heads") or num_heads)
    if num_heads % num_kv_heads:
        raise LibraError(f"{path}: {num_heads} attention heads are no multiple of {num_kv_heads} key-value heads")
    return ModelSpec(
        name=name,
        num_layers=_positive(path, config, "num_hidden_layers"),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=int(config.get("head_dim") or hidden_size // num_heads),
        intermediate_size=_positive(path, config, "intermediate_size"),
        vocab_size=_positive(path, config, "vocab_size"),
        dtype_bytes=DTYPE_BYTES[dtype],
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def _rope(path: Path, config: dict[str, Any]) -> RopeConfig:
    """Reads ``rope_theta`` + ``rope_scaling``, or ``rope_parameters``, which holds both since transformers 5."""
    values = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = float(values.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = values.get("rope_type") or values.get("type") or "default"
    if kind == "default":
        return RopeConfig(theta)
    if kind == "linear":
        return RopeConfig(theta, kind, float(_required(path, values, "factor")))
    if kind == "llama3":
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factor, low, high, original = (float(_required(path, values, key)) for key in keys)
        return RopeConfig(theta, kind, factor, low, high, int(original))
    raise LibraError(f"{path}: rope type {kind!r} is not supported; use a model with default, linear or llama3 rope")


def _max_length(path: Path, config: dict[str, Any], architecture: str) -> int:
    length = _positive(path, config, "max_position_embeddings")
    uses_window = architecture == "MistralForCausalLM" or bool(config.get("use_sliding_window", False))
    window = config.get("sliding_window") if uses_window else None
    return length if window is None else min(length, int(window))


def _required(path: Path, values: dict[str, Any], key: str) -> Any:
    if values.get(key) is None:
        raise LibraError(f"{path}: {key} is missing; take the config.json that came with the weights")
    return values[key]


def _positive(path: Path, config: dict[str, Any], key: str) -> int:
    value = _required(path, config, key)
    if not isinstance(value, int) or value <= 0:
        raise LibraError(f"{path}: {key} = {value!r} must be a positive whole number")
    return value


def _token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
