"""PEFT directories: what is read, and what is refused by name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from libra.errors import LibraError
from libra.model.adapter import read_adapter
from libra.model.adapter_store import AdapterStore, load_weights
from libra.spec import TARGET_MODULES
from tests.libra.model.directories import Tensors, copy_of, edit_json, edit_tensors
from tests.tiny_models import SPEC, TinyModel

PREFIX = "base_model.model.model.layers."
DOWN_A = PREFIX + "2.mlp.down_proj.lora_A.weight"


@pytest.fixture
def directory(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """Adapter 0: rank 4, all modules."""
    return copy_of(tiny_model.adapters["adapter-00"], tmp_path / "mine")


def test_spec_and_scaling_are_read(tiny_model: TinyModel, directory: Path) -> None:
    source = read_adapter(directory, SPEC)
    assert (source.spec.adapter_id, source.spec.rank, source.spec.target_modules) == ("mine", 4, TARGET_MODULES)
    assert source.scaling == 2.0
    rank_stabilised = read_adapter(tiny_model.adapters["adapter-01"], SPEC, "other")
    assert rank_stabilised.spec.adapter_id == "other"
    assert rank_stabilised.spec.target_modules == ("q_proj", "v_proj")
    assert rank_stabilised.scaling == pytest.approx(16 / 8**0.5)


def test_the_scaling_is_folded_into_b(directory: Path) -> None:
    edit_json(directory / "adapter_config.json", lora_alpha=4)
    plain = load_weights(read_adapter(directory, SPEC))
    edit_json(directory / "adapter_config.json", lora_alpha=12)
    scaled = load_weights(read_adapter(directory, SPEC))
    for module in TARGET_MODULES:
        assert torch.equal(scaled[module].a, plain[module].a)
        torch.testing.assert_close(scaled[module].b, 3 * plain[module].b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4'"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"r": 200}, "rank 200 is above the limit of 128; use --max-lora-rank 200"),
        ({"r": 0}, "r = 0"),
        ({"lora_alpha": "x"}, "lora_alpha = 'x'"),
        ({"lora_alpha": 10**400}, "lora_alpha = 10{39} must be a finite number"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan"),
        ({"lora_alpha": float("-inf")}, "lora_alpha = -inf"),
    ],
)
def test_what_is_not_supported_is_named(directory: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(directory / "adapter_config.json", **changes)
    with pytest.raises(LibraError, match=message):
        read_adapter(directory, SPEC)


def _narrow_input(tensors: Tensors) -> None:
    tensors[DOWN_A] = tensors[DOWN_A][:, :-8].clone()


def _deeper(tensors: Tensors) -> None:
    tensors[PREFIX + "3.mlp.down_proj.lora_A.weight"] = tensors[DOWN_A].clone()


def _one_layer_less(tensors: Tensors) -> None:
    del tensors[DOWN_A]


def _embedding(tensors: Tensors) -> None:
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.zeros(4, 512)


def _dora_magnitude(tensors: Tensors) -> None:
    tensors[PREFIX + "0.self_attn.q_proj.lora_magnitude_vector"] = torch.zeros(64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_narrow_input, r"layer 2 down_proj: lora_A has shape \[4, 168\], tiny at rank 4 needs \[4, 176\]; .*another"),
        (_deeper, "layer 3 is beyond the 3 layers of tiny"),
        (_one_layer_less, "layer 2 down_proj: lora_A is missing"),
        (_embedding, "embed_tokens.lora_embedding_A is not supported"),
        (_dora_magnitude, "lora_magnitude_vector is not supported"),
        (Tensors.clear, "holds no LoRA weights"),
    ],
)
def test_tensors_that_do_not_fit_are_named(directory: Path, change: Callable[[Tensors], None], message: str) -> None:
    edit_tensors(directory / "adapter_model.safetensors", change)
    with pytest.raises(LibraError, match=message):
        read_adapter(directory, SPEC)


def test_a_rank_other_than_the_configs_is_named(directory: Path) -> None:
    edit_json(directory / "adapter_config.json", r=8)
    with pytest.raises(LibraError, match=r"layer 0 \w+: lora_A has shape \[4, \d+\], tiny at rank 8 needs"):
        read_adapter(directory, SPEC)


@pytest.mark.parametrize("kept_bytes", [0, 100, -1])
def test_a_corrupt_file_is_named(directory: Path, kept_bytes: int) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(LibraError, match=r"adapter_model.safetensors: corrupt or truncated"):
        read_adapter(directory, SPEC)


def test_missing_files_are_named(directory: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(LibraError, match="pickles are not read"):
        read_adapter(directory, SPEC)
    (directory / "adapter_model.bin").unlink()
    with pytest.raises(LibraError, match=r"adapter_model.safetensors: no such file"):
        read_adapter(directory, SPEC)
    (directory / "adapter_config.json").unlink()
    with pytest.raises(LibraError, match=r"adapter_config.json: no such file"):
        read_adapter(directory, SPEC)


def test_a_config_nested_without_end_is_no_json(directory: Path) -> None:
    (directory / "adapter_config.json").write_text('{"r": ' + "[" * 100_000)
    with pytest.raises(LibraError, match=r"adapter_config.json: not valid JSON"):
        read_adapter(directory, SPEC)


def test_weights_are_a_file(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(LibraError, match=r"adapter_model.safetensors: cannot be read \(Too many levels of symbolic"):
        read_adapter(directory, SPEC)
    path.unlink()
    path.mkdir()
    with pytest.raises(LibraError, match=r"adapter_model.safetensors: is no file"):
        read_adapter(directory, SPEC)
    path.rmdir()
    os.mkfifo(path)  # whoever opened it would wait for a writer
    with pytest.raises(LibraError, match=r"adapter_model.safetensors: is no file"):
        read_adapter(directory, SPEC)


def test_the_store_refuses_twins_strangers_and_blocks_too_small(directory: Path) -> None:
    store = AdapterStore(SPEC, 16, torch.float32)
    assert store.add(directory) == store["mine"]
    assert list(store) == ["mine"]
    with pytest.raises(LibraError, match="'mine' stands for both"):
        store.add(directory)
    with pytest.raises(LibraError, match="unknown adapter 'mien': did you mean 'mine'"):
        store.packed("mien")
    with pytest.raises(LibraError, match="use --block-size 7 or more"):
        AdapterStore(SPEC, 4, torch.float32).add(directory)
