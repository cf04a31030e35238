"""config.json: what is read, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from libra.errors import LibraError
from libra.model.config import RopeConfig, read_config
from tests.libra.model.directories import copy_of, edit_json
from tests.tiny_models import MAX_LENGTH, SPEC, TinyModel

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.fixture
def directory(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return copy_of(tiny_model.directory, tmp_path / "model")


def test_shapes_and_limits_are_read(directory: Path) -> None:
    config = read_config(directory, "bfloat16")
    assert config.spec.name == "model"
    assert config.spec.dtype_bytes == 2
    assert (config.spec.num_layers, config.spec.head_dim, config.spec.vocab_size) == (3, 16, 512)
    assert config.spec.block_elems(16) == SPEC.block_elems(16)
    assert (config.max_length, config.eos_token_ids, config.rope) == (MAX_LENGTH, (0,), RopeConfig(10000.0))
    assert not config.qkv_bias
    assert not config.output_bias


def test_head_dim_and_key_value_heads_have_defaults(directory: Path) -> None:
    edit_json(directory / "config.json", head_dim=None, num_key_value_heads=None)
    spec = read_config(directory).spec
    assert (spec.num_kv_heads, spec.head_dim) == (4, 16)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 256}},
        {
            "rope_theta": None,
            "rope_parameters": {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 256},
        },
    ],
)
def test_rope_is_read_in_both_spellings(directory: Path, changes: dict[str, Any]) -> None:
    edit_json(directory / "config.json", **changes)
    assert read_config(directory).rope == RopeConfig(5e5, "llama3", 8.0, 1.0, 4.0, 256)


@pytest.mark.parametrize(
    ("changes", "max_length"),
    [
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, MAX_LENGTH),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 100}, 100),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 100, "use_sliding_window": False}, MAX_LENGTH),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 100, "use_sliding_window": True}, 100),
    ],
)
def test_a_sliding_window_limits_the_context(directory: Path, changes: dict[str, Any], max_length: int) -> None:
    edit_json(directory / "config.json", **changes)
    assert read_config(directory).max_length == max_length


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported"),
        ({"architectures": None}, r"architecture \(none\) is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn'"),
        ({"rope_scaling": LLAMA3}, "original_max_position_embeddings is missing"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"num_key_value_heads": 3}, "4 attention heads are no multiple of 3"),
    ],
)
def test_what_is_not_supported_is_named(directory: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(directory / "config.json", **changes)
    with pytest.raises(LibraError, match=message):
        read_config(directory)


def test_an_unknown_dtype_gets_a_suggestion(directory: Path) -> None:
    with pytest.raises(LibraError, match="did you mean 'bfloat16'"):
        read_config(directory, "bfloat")


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("{", "not valid JSON"), ("[]", "a list")])
def test_a_config_that_is_none_is_refused(directory: Path, content: str | None, message: str) -> None:
    path = directory / "config.json"
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(LibraError, match=message):
        read_config(directory)
