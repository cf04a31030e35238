"""Adapters by id: where they are, what they are, and their packed blocks."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from libra.errors import LibraError, unknown
from libra.model.adapter import DEFAULT_MAX_LORA_RANK, AdapterSource, is_below, read_adapter
from libra.model.adapter_weights import AdapterWeights
from libra.model.packing import LoraPair, UnitLayout, pack
from libra.spec import AdapterSpec, ModelSpec


def load_weights(source: AdapterSource) -> dict[str, LoraPair]:
    """Reads all weights of an adapter, the scaling folded into B in float32.

    Raises LibraError when the file cannot be read, or is not what it was, or where it was, when ``source`` was made.
    """
    layers = range(1 + max(layer for layer, _ in source.tensors))
    try:
        # Not by safe_open: its get_tensor loses 64 bytes per tensor for good (safetensors 0.8 with torch), and a server
        # reads adapters for as long as it runs.
        tensors = load(_read(source))
        pairs = {}
        for module in source.spec.target_modules:
            names = [source.tensors[layer, module] for layer in layers]
            a = torch.stack([tensors[a_name].float() for a_name, _ in names])
            b = torch.stack([tensors[b_name].float().T for _, b_name in names])
            pairs[module] = LoraPair(a, b * source.scaling)
    except (SafetensorError, OSError) as error:
        raise LibraError(f"{source.weights_path}: cannot be read ({error}); download it again") from error
    except KeyError as error:
        raise LibraError(f"{source.weights_path}: tensor {error} is gone; load the adapter again") from error
    return pairs


def _read(source: AdapterSource) -> bytes:
    """The weights file. Links lead where they lead now, and what is there may be of any size, so both are looked at
    each time. Raises LibraError, and OSError."""
    path = source.weights_path
    if source.roots and not is_below(path, source.roots):
        raise LibraError(f"{path}: leads out of the directories open for adapters; put the file itself there")
    if path.stat().st_size != source.weights_bytes:
        raise LibraError(f"{path}: has changed since the adapter was loaded; load the adapter again")
    return path.read_bytes()


class AdapterStore(AdapterWeights):
    """Adapters on disk, read whenever their weights are asked for."""

    def __init__(
        self, model: ModelSpec, block_tokens: int, dtype: torch.dtype, max_lora_rank: int = DEFAULT_MAX_LORA_RANK
    ) -> None:
        self._model = model
        self._block_tokens = block_tokens
        self._dtype = dtype
        self._max_lora_rank = max_lora_rank
        self._sources: dict[str, AdapterSource] = {}

    def add(self, directory: Path, adapter_id: str | None = None) -> AdapterSpec:
        """Checks the adapter in ``directory`` against the model and registers it, without reading its weights.

        Raises LibraError for everything ``read_adapter`` does, for a block too small, and for an id that is taken.
        """
        return self.register(read_adapter(directory, self._model, adapter_id, self._max_lora_rank))

    def register(self, source: AdapterSource) -> AdapterSpec:
        """The same for one that has been checked, by whoever has read it. Raises LibraError for a block too small, and
        for an id that is taken."""
        name = source.spec.adapter_id
        if name in self._sources:
            other = self._sources[name].directory
            raise LibraError(f"adapter id {name!r} stands for both {other} and {source.directory}; rename one")
        source.spec.num_blocks(self._model, self._block_tokens)
        self._sources[name] = source
        return source.spec

    def remove(self, adapter_id: str) -> None:
        """Forgets an adapter. Raises LibraError when it is unknown."""
        if adapter_id not in self._sources:
            raise unknown("adapter", adapter_id, self._sources)
        del self._sources[adapter_id]

    def packed(self, adapter_id: str) -> torch.Tensor:
        """The adapter's blocks read from disk, shape [num_blocks, block_elems].

        Raises LibraError when the adapter is unknown or its file cannot be read.
        """
        if adapter_id not in self._sources:
            raise unknown("adapter", adapter_id, self._sources)
        source = self._sources[adapter_id]
        layout = UnitLayout.of(source.spec, self._model, self._block_tokens)
        return pack(load_weights(source), layout, self._dtype)

    def __getitem__(self, adapter_id: str) -> AdapterSpec:
        return self._sources[adapter_id].spec

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)
