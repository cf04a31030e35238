"""Attention of a mixed batch over paged KV: all decoding sequences in one call, prefill chunks one by one."""

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from libra.model.paged_kv import PagedKV

# Queries of a chunk that are computed at a time, and what their number is rounded up to.
_TILE, _ROWS = 64, 16


class Span(NamedTuple):
    """Positions ``start .. start + num_tokens`` of a sequence, to be computed; those before ``start`` have their KV."""

    block_table: Items[int]
    start: int
    num_tokens: int

    @property
    def end(self) -> int:
        return self.start + self.num_tokens


class DecodePlan(NamedTuple):
    """Decoding sequences of similar length: ``tokens`` of the step, one each, and the KV they see.

    ``key_slabs`` [layers, sequences * slabs] is padded to the longest; ``mask`` [sequences, 1, 1, positions] is added
    to the scores.
    """

    tokens: slice
    key_slabs: torch.Tensor
    mask: torch.Tensor


class ChunkPlan(NamedTuple):
    """A prefill chunk: ``tokens`` of the step, the first at position ``start`` of its sequence.

    ``key_slabs`` [layers, slabs] covers prefix and chunk. ``mask`` [tile, tile + block] is added to the scores of a
    tile's positions and those behind them, for any tile.
    """

    tokens: slice
    start: int
    key_slabs: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """Index tensors of one step, for every layer; made once."""

    key_rows: torch.Tensor
    decode: tuple[DecodePlan, ...]
    chunks: tuple[ChunkPlan, ...]


def plan_attention(kv: PagedKV, decode: Items[Span], prefill: Items[Span], dtype: torch.dtype) -> AttentionPlan:
    """Plans a step whose tokens are those of ``decode``, one each, then those of ``prefill``, in order.

    Neighbours in ``decode`` share a call as long as their lengths are similar: sort them to need few calls.
    """
    key_rows = [kv.key_rows(*span) for span in (*decode, *prefill)]
    groups = [_plan_decode(kv, decode[run], run, dtype) for run in _similar_lengths(decode, kv.block_tokens)]
    mask = _tile_mask(kv.block_tokens, dtype)
    chunks, start = [], len(decode)
    for span in prefill:
        chunks.append(_plan_chunk(kv, span, slice(start, start + span.num_tokens), mask))
        start += span.num_tokens
    return AttentionPlan(kv.rows_by_layer(np.concatenate(key_rows)), tuple(groups), tuple(chunks))


def _similar_lengths(spans: Items[Span], block_tokens: int) -> list[slice]:
    """Cuts ``spans`` into runs in which padding at most doubles what is read, give or take a few blocks."""
    runs: list[slice] = []
    shortest = longest = start = 0
    for index, span in enumerate(spans):
        num_blocks = -(-span.end // block_tokens)
        shortest, longest = min(shortest, num_blocks), max(longest, num_blocks)
        if index == 0 or longest > 2 * shortest + 4:
            shortest = longest = num_blocks
            start = index
            runs.append(slice(index, index + 1))
        else:
            runs[-1] = slice(start, index + 1)
    return runs


def _plan_decode(kv: PagedKV, spans: Items[Span], tokens: slice, dtype: torch.dtype) -> DecodePlan:
    ends = np.array([span.end for span in spans])
    num_blocks = -(-int(ends.max()) // kv.block_tokens)
    hidden = np.arange(num_blocks * kv.block_tokens) >= ends[:, None]
    slabs = kv.slabs_by_layer(kv.key_slabs([span.block_table for span in spans], num_blocks))
    return DecodePlan(tokens, slabs, _additive_mask(hidden, dtype)[:, None, None])


def _plan_chunk(kv: PagedKV, span: Span, tokens: slice, mask: torch.Tensor) -> ChunkPlan:
    slabs = kv.slabs_by_layer(kv.key_slabs([span.block_table], -(-span.end // kv.block_tokens)))
    return ChunkPlan(tokens, span.start, slabs, mask)


def _tile_mask(block_tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """Hides from query i of a tile what stands behind position i of the tile, up to the end of a block."""
    return _additive_mask(np.arange(_TILE + block_tokens) > np.arange(_TILE)[:, None], dtype)


def _additive_mask(hidden: np.typing.NDArray[np.bool_], dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(torch.from_numpy(hidden), -torch.inf)


def attend(
    plan: AttentionPlan, kv: PagedKV, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Writes the step's keys and values to the pool and attends to all that each token may see.

    ``queries`` [tokens, heads, head_dim], ``keys`` and ``values`` [tokens, kv_heads, head_dim]; returns
    [tokens, heads * head_dim]. Tokens beyond the plan's are padding and get zeros. Mutates HBM at the step's positions.
    """
    key_rows = plan.key_rows[layer]
    kv.write(key_rows, keys[: len(key_rows)].flatten(1), values[: len(key_rows)].flatten(1))
    num_tokens, num_heads, head_dim = queries.shape
    # Query head h reads key-value head h // group: [tokens, kv_heads, group, head_dim].
    grouped = queries.view(num_tokens, keys.shape[1], -1, head_dim)
    output = torch.empty_like(grouped)
    output[len(key_rows) :] = 0.0
    for group in plan.decode:
        output[group.tokens] = _attend_decode(grouped[group.tokens], *kv.read(group.key_slabs[layer]), group.mask)
    for chunk in plan.chunks:
        seen_keys, seen_values = (rows.view(-1, *keys.shape[1:]) for rows in kv.read(chunk.key_slabs[layer]))
        queries_of_chunk = grouped[chunk.tokens]
        _attend_chunk(queries_of_chunk, seen_keys, seen_values, chunk, kv.block_tokens, output[chunk.tokens])
    return output.view(num_tokens, num_heads * head_dim)


def _attend_decode(
    queries: torch.Tensor, key_rows: torch.Tensor, value_rows: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """[sequences, kv_heads, group, head_dim] -> the same shape. The group stands where SDPA expects query positions,
    so that the keys of a key-value head are read once for all its query heads and never repeated in memory."""
    if queries.dtype == torch.bfloat16:
        return _attend_whole_rows(queries, key_rows, value_rows, mask)
    num_sequences, num_kv_heads, _, head_dim = queries.shape
    keys, values = (
        rows.view(num_sequences, -1, num_kv_heads, head_dim).transpose(1, 2) for rows in (key_rows, value_rows)
    )
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def _attend_whole_rows(
    queries: torch.Tensor, key_rows: torch.Tensor, value_rows: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The same in one product per sequence instead of one per key-value head, which SDPA in bfloat16 lays out anew each
    time. A query is zero but in the columns of its own key-value head, and of its output those columns are taken."""
    num_sequences, num_kv_heads, group, head_dim = queries.shape
    keys, values = (rows.view(num_sequences, -1, num_kv_heads * head_dim) for rows in (key_rows, value_rows))
    wide = queries.new_zeros(num_sequences, num_kv_heads, group, num_kv_heads, head_dim)
    wide.diagonal(dim1=1, dim2=3).copy_(queries.permute(0, 2, 3, 1))
    scores = torch.bmm(wide.view(num_sequences, num_kv_heads * group, -1), keys.transpose(1, 2))
    weights = torch.softmax(torch.add(mask[:, 0], scores, alpha=1 / math.sqrt(head_dim)), -1)
    output = torch.bmm(weights, values).view(num_sequences, num_kv_heads, group, num_kv_heads, head_dim)
    return output.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


def _attend_chunk(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    chunk: ChunkPlan,
    block_tokens: int,
    output: torch.Tensor,
) -> None:
    """Writes ``output`` [tokens, kv_heads, group, head_dim], like ``queries``, for ``keys`` and ``values``
    [blocks * block_tokens, kv_heads, head_dim].

    Tile by tile of queries, each with the keys it may see alone. All numbers of rows are rounded up, because oneDNN
    compiles a product anew for every size. What that adds is masked, or computed and left out.
    """
    num_tokens, num_kv_heads, group, head_dim = queries.shape
    all_keys, all_values = keys.permute(1, 2, 0), values.transpose(0, 1)
    for first in range(0, num_tokens, _TILE):
        count = min(_TILE, num_tokens - first)
        rows, position = _round_up(count, _ROWS), chunk.start + first
        seen = _round_up(position + count, block_tokens)
        tile = queries.new_zeros(num_kv_heads, group, rows, head_dim)
        tile[:, :, :count] = queries[first : first + count].permute(1, 2, 0, 3)
        tile *= 1 / math.sqrt(head_dim)
        scores = torch.bmm(tile.flatten(1, 2), all_keys[:, :, :seen])
        own = scores.view(num_kv_heads, group, rows, seen)[..., position:]
        own += chunk.mask[:rows, : seen - position]
        attended = torch.bmm(torch.softmax(scores, -1), all_values[:, :seen])
        attended = attended.view(num_kv_heads, group, rows, head_dim)[:, :, :count]
        output[first : first + count] = attended.permute(2, 0, 1, 3)


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step
