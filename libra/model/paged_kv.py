"""KV in pool blocks: the layout, and how positions of a sequence map to it.

block = [layers, 2 (keys, values), block_tokens, kv_heads * head_dim], contiguous, so that
slab (block, layer, side)        is row  (block * layers + layer) * 2 + side                         of ``slabs``
token (block, layer, side, slot) is row ((block * layers + layer) * 2 + side) * block_tokens + slot  of ``rows``
"""

from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt
import torch

from libra.spec import ModelSpec

Indices = npt.NDArray[np.int64]


class PagedKV:
    """The HBM arena [num_blocks, block_elems] seen by token and by slab (one layer's keys or values of a block)."""

    def __init__(self, hbm: torch.Tensor, spec: ModelSpec, block_tokens: int) -> None:
        """Raises ValueError when a block does not have the size of ``block_tokens`` tokens' KV."""
        if hbm.shape[1] != spec.block_elems(block_tokens):
            raise ValueError(f"blocks of {hbm.shape[1]} elements, not {spec.block_elems(block_tokens)}")
        self.width = spec.num_kv_heads * spec.head_dim
        self.num_heads = spec.num_heads
        self.num_kv_heads = spec.num_kv_heads
        self.num_layers = spec.num_layers
        self.block_tokens = block_tokens
        self.rows = hbm.view(-1, self.width)
        self.slabs = hbm.view(-1, block_tokens * self.width)
        head_rows = hbm.view(-1, spec.head_dim)
        values = [(2 * layer + 1) * block_tokens * spec.num_kv_heads for layer in range(spec.num_layers)]
        # By layer: row ``key_row * kv_heads + head`` is a head's value, for ``key_row`` as from ``key_rows``.
        self.head_values = [head_rows[start:] for start in values]

    def write(self, key_rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Stores keys and values [tokens, width] of one layer at ``key_rows`` [tokens]. Mutates HBM."""
        self.rows.index_copy_(0, key_rows, keys)
        self.rows.index_copy_(0, key_rows + self.block_tokens, values)

    def read_keys(self, key_slabs: torch.Tensor) -> torch.Tensor:
        """A copy of keys alone, [slabs * block_tokens, width], for the slabs ``key_slabs``."""
        return self.slabs.index_select(0, key_slabs).view(-1, self.width)

    def read(self, key_slabs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of keys and of values, each [slabs * block_tokens, width], for the slabs ``key_slabs``."""
        keys = self.slabs.index_select(0, key_slabs)
        values = self.slabs.index_select(0, key_slabs + 1)
        return keys.view(-1, self.width), values.view(-1, self.width)

    def key_rows(self, table: Items[int], start: int, num_tokens: int) -> Indices:
        """Rows of layer 0's keys for positions ``start .. start + num_tokens`` of a block table."""
        positions = np.arange(start, start + num_tokens)
        blocks = np.asarray(table, dtype=np.int64)[positions // self.block_tokens]
        return blocks * (2 * self.num_layers * self.block_tokens) + positions % self.block_tokens

    def key_slabs(self, tables: Items[Items[int]], num_blocks: int) -> Indices:
        """Slabs of layer 0's keys, [tables, num_blocks]. A short table repeats its first block: mask what it adds."""
        blocks = np.empty((len(tables), num_blocks), dtype=np.int64)
        for row, table in zip(blocks, tables, strict=True):
            row[:] = table[0]
            row[: len(table)] = table[:num_blocks]
        return blocks * (2 * self.num_layers)

    def rows_by_layer(self, key_rows: Indices) -> torch.Tensor:
        """Layer 0's rows [tokens] -> every layer's, [layers, tokens]."""
        return torch.from_numpy(key_rows + 2 * self.block_tokens * np.arange(self.num_layers)[:, None])

    def slabs_by_layer(self, key_slabs: Indices) -> torch.Tensor:
        """Layer 0's slabs, any shape -> every layer's, [layers, slabs]."""
        return torch.from_numpy(key_slabs.reshape(-1) + 2 * np.arange(self.num_layers)[:, None])
