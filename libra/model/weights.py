"""Tensors of a model directory: one safetensors file, or shards with an index."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from libra.errors import LibraError
from libra.model.files import open_safetensors, read_json

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


class Checkpoint:
    """The weights under ``directory``, opened but not read; ``tensor`` reads one at a time.

    Raises LibraError when there is no safetensors file, when a shard that the index names is missing, or when a file
    is truncated or corrupt.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[str, Any] = {}
        for path in _shards(directory):
            file = open_safetensors(path)
            self._files.update((name, file) for name in file.keys())  # noqa: SIM118 - not a mapping

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Reads ``name`` as ``dtype``. Raises LibraError when it is missing, unreadable or not of ``shape``."""
        if name not in self._files:
            raise LibraError(f"{self.directory}: tensor {name} is missing; download the model again")
        try:
            tensor: torch.Tensor = self._files[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise LibraError(f"{self.directory}: tensor {name} cannot be read ({error}); download it again") from error
        if tuple(tensor.shape) != shape:
            raise LibraError(
                f"{self.directory}: tensor {name} has shape {list(tensor.shape)}, config.json asks for {list(shape)}; "
                "use weights and config.json of the same model"
            )
        return tensor.to(dtype)

    def check_unused(self, used: Iterable[str], harmless_suffixes: tuple[str, ...]) -> None:
        """Raises LibraError when the files hold a tensor that the forward pass would silently leave out."""
        for name in sorted(set(self._files) - set(used)):
            if not name.endswith(harmless_suffixes):
                raise LibraError(
                    f"{self.directory}: tensor {name} is no part of the architecture that config.json names; "
                    "use weights and config.json of the same model"
                )


def _shards(directory: Path) -> list[Path]:
    if (directory / SINGLE_FILE).exists():
        return [directory / SINGLE_FILE]
    if not (directory / INDEX_FILE).exists():
        raise LibraError(
            f"{directory}: holds neither {SINGLE_FILE} nor {INDEX_FILE}; pickled weights are not read, "
            "save them with save_pretrained(..., safe_serialization=True)"
        )
    index = read_json(directory / INDEX_FILE).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise LibraError(f"{directory / INDEX_FILE}: has no weight_map; download the file again")
    names = sorted(set(index.values()))
    missing = [name for name in names if not (directory / name).exists()]
    if missing:
        raise LibraError(f"{directory}: shard {missing[0]} is missing ({len(missing)} of {len(names)}); download it")
    return [directory / name for name in names]
