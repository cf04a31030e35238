"""Attention of a mixed batch over paged KV: all decoding sequences in one call, prefill chunks one by one."""

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from libra.model.paged_kv import PagedKV

# Queries of a chunk that are computed at a time, and what their number is rounded up to.
_TILE, _ROWS = 128, 16


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

    ``key_slabs`` [layers, sequences * slabs] is padded to the longest, by positions that ``hidden``
    [sequences, 1, positions] masks. ``value_rows`` [sequences * heads * positions], for every layer's
    ``PagedKV.head_values``, are cut by ``ends`` into one bag for each sequence and query head.
    """

    tokens: slice
    key_slabs: torch.Tensor
    hidden: torch.Tensor
    value_rows: torch.Tensor
    ends: torch.Tensor


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
    groups = [_plan_decode(kv, decode[run], run) for run in _similar_lengths(decode, kv.block_tokens)]
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


def _plan_decode(kv: PagedKV, spans: Items[Span], tokens: slice) -> DecodePlan:
    lengths = np.array([span.end for span in spans])
    num_blocks = -(-int(lengths.max()) // kv.block_tokens)
    num_positions = num_blocks * kv.block_tokens
    hidden = np.arange(num_positions) >= lengths[:, None]
    slabs = kv.key_slabs([span.block_table for span in spans], num_blocks)
    key_rows = (slabs[:, :, None] * kv.block_tokens + np.arange(kv.block_tokens)).reshape(len(spans), -1)
    # What stands in masked positions may be anything, even NaN, which no weight makes zero.
    seen_rows = np.where(hidden, key_rows[:, :1], key_rows) * kv.num_kv_heads
    key_value_heads = np.arange(kv.num_heads) // (kv.num_heads // kv.num_kv_heads)
    value_rows = seen_rows[:, None] + key_value_heads[:, None]
    ends = np.arange(len(spans) * kv.num_heads + 1) * num_positions
    return DecodePlan(
        tokens,
        kv.slabs_by_layer(slabs),
        torch.from_numpy(hidden[:, None]),
        torch.from_numpy(value_rows.reshape(-1)),
        torch.from_numpy(ends),
    )


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
        output[group.tokens] = _attend_decode(grouped[group.tokens], group, kv, layer)
    for chunk in plan.chunks:
        seen_keys, seen_values = (rows.view(-1, *keys.shape[1:]) for rows in kv.read(chunk.key_slabs[layer]))
        queries_of_chunk = grouped[chunk.tokens]
        # What earlier owners left behind the chunk may be NaN, which no mask makes zero.
        end = chunk.start + len(queries_of_chunk)
        seen_keys[end:] = seen_values[end:] = 0.0
        _attend_chunk(queries_of_chunk, seen_keys, seen_values, chunk, kv.block_tokens, output[chunk.tokens])
    return output.view(num_tokens, num_heads * head_dim)


def _attend_decode(queries: torch.Tensor, plan: DecodePlan, kv: PagedKV, layer: int) -> torch.Tensor:
    """[sequences, kv_heads, group, head_dim] -> the same shape.

    The scores are one product per sequence instead of one per key-value head, for which the keys would have to be laid
    out anew: a query is zero but in the columns of its own key-value head. The weighted values are summed where they
    lie in the pool, without a copy.
    """
    num_sequences, num_kv_heads, group, head_dim = queries.shape
    keys = kv.read_keys(plan.key_slabs[layer]).view(num_sequences, -1, kv.width)
    wide = queries.new_zeros(num_sequences, num_kv_heads, group, num_kv_heads, head_dim)
    own_columns = wide.diagonal(dim1=1, dim2=3)
    torch.mul(queries.permute(0, 2, 3, 1), 1 / math.sqrt(head_dim), out=own_columns)
    scores = torch.bmm(wide.view(num_sequences, num_kv_heads * group, -1), keys.transpose(1, 2))
    weights = torch.softmax(scores.masked_fill_(plan.hidden, -torch.inf), -1).view(-1)
    mode_sum = 0
    sums = torch.embedding_bag(kv.head_values[layer], plan.value_rows, plan.ends, False, mode_sum, False, weights, True)
    return sums[0].view(queries.shape)


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
