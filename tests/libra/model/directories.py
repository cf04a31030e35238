"""Copies of model and adapter directories, spoilt in one place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def copy_of(directory: Path, target: Path) -> Path:
    """A copy without the adapters below it."""
    shutil.copytree(directory, target, ignore=shutil.ignore_patterns("adapters"))
    return target


def edit_json(path: Path, **changes: Any) -> None:
    """Sets keys; a value of None removes the key."""
    document = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in document.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def edit_tensors(path: Path, change: Callable[[Tensors], None]) -> None:
    """Applies ``change`` to the tensors of a safetensors file."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def shard(directory: Path) -> list[Path]:
    """Splits model.safetensors into three shards with an index; returns the shards."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for index in range(3):
        file_name = f"model-{index + 1:05d}-of-00003.safetensors"
        part = names[index::3]
        save_file({name: tensors[name] for name in part}, directory / file_name)
        weight_map.update((name, file_name) for name in part)
    index_document = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index_document), encoding="utf-8")
    return [directory / file_name for file_name in sorted(set(weight_map.values()))]
