"""Model weights: sharded or not, and every fault of theirs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from libra.errors import LibraError
from libra.model.llama import load_model
from libra.model.weights import Checkpoint
from tests.libra.model.directories import Tensors, copy_of, edit_json, edit_tensors, shard
from tests.tiny_models import TinyModel

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def directory(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return copy_of(tiny_model.directory, tmp_path / "model")


def test_shards_hold_the_same_tensors_as_one_file(tiny_model: TinyModel, directory: Path) -> None:
    shard(directory)
    whole, parts = Checkpoint(tiny_model.directory), Checkpoint(directory)
    shape = (64, 64)
    assert torch.equal(whole.tensor(Q_PROJ, shape, torch.float32), parts.tensor(Q_PROJ, shape, torch.float32))
    load_model(directory)


def test_a_missing_shard_is_named(directory: Path) -> None:
    shard(directory)[1].unlink()
    with pytest.raises(LibraError, match=r"model-00002-of-00003.safetensors is missing \(1 of 3\)"):
        load_model(directory)


def test_a_truncated_file_is_named(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LibraError, match=r"model.safetensors: corrupt or truncated"):
        load_model(directory)


def test_garbage_is_named(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(LibraError, match=r"model.safetensors: corrupt or truncated"):
        load_model(directory)


def test_pickles_are_not_read(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(LibraError, match="pickled weights are not read"):
        load_model(directory)


def _wrong_shape(tensors: Tensors) -> None:
    tensors[Q_PROJ] = tensors[Q_PROJ][:60].clone()


def _missing(tensors: Tensors) -> None:
    del tensors[Q_PROJ]


def _extra(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_wrong_shape, rf"{Q_PROJ} has shape \[60, 64\], config.json asks for \[64, 64\]"),
        (_missing, f"{Q_PROJ} is missing"),
        (_extra, "q_norm.weight is no part of the architecture"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_named(
    directory: Path, change: Callable[[Tensors], None], message: str
) -> None:
    edit_tensors(directory / "model.safetensors", change)
    with pytest.raises(LibraError, match=message):
        load_model(directory)


def test_a_bias_the_config_promises_must_be_there(directory: Path) -> None:
    edit_json(directory / "config.json", attention_bias=True)
    with pytest.raises(LibraError, match=r"q_proj.bias is missing"):
        load_model(directory)


def test_an_index_without_a_map_is_refused(directory: Path) -> None:
    shard(directory)
    (directory / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LibraError, match="has no weight_map"):
        load_model(directory)
