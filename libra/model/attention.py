"""Attention of a mixed batch over paged KV: all decoding sequences in one call, prefill chunks one by one."""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from libra.model.paged_kv import PagedKV


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
    """A prefill chunk: ``tokens`` of the step, and the KV it sees. Without a prefix it sees only itself, causally.

    ``key_slabs`` [layers, slabs] covers prefix and chunk, ``mask`` [tokens, prefix + tokens] is added to the scores.
    """

    tokens: slice
    key_slabs: torch.Tensor | None = None
    mask: torch.Tensor | None = None


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
    chunks, start = [], len(decode)
    for span in prefill:
        chunks.append(_plan_chunk(kv, span, slice(start, start + span.num_tokens), dtype))
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


def _plan_chunk(kv: PagedKV, span: Span, tokens: slice, dtype: torch.dtype) -> ChunkPlan:
    if span.start == 0:
        return ChunkPlan(tokens)
    slabs = kv.slabs_by_layer(kv.key_slabs([span.block_table], -(-span.end // kv.block_tokens)))
    hidden = np.arange(span.end) > np.arange(span.start, span.end)[:, None]
    return ChunkPlan(tokens, slabs, _additive_mask(hidden, dtype))


def _additive_mask(hidden: np.typing.NDArray[np.bool_], dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(torch.from_numpy(hidden), -torch.inf)


def attend(
    plan: AttentionPlan, kv: PagedKV, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Writes the step's keys and values to the pool and attends to all that each token may see.

    ``queries`` [tokens, heads, head_dim], ``keys`` and ``values`` [tokens, kv_heads, head_dim]; returns
    [tokens, heads * head_dim]. Mutates HBM at the step's positions.
    """
    kv.write(plan.key_rows[layer], keys.flatten(1), values.flatten(1))
    num_tokens, num_heads, head_dim = queries.shape
    # Query head h reads key-value head h // group: [tokens, kv_heads, group, head_dim].
    grouped = queries.view(num_tokens, keys.shape[1], -1, head_dim)
    output = torch.empty_like(grouped)
    for group in plan.decode:
        output[group.tokens] = _attend_decode(grouped[group.tokens], *kv.read(group.key_slabs[layer]), group.mask)
    for chunk in plan.chunks:
        seen = (keys[chunk.tokens], values[chunk.tokens])
        if chunk.key_slabs is not None and chunk.mask is not None:
            read = kv.read(chunk.key_slabs[layer])
            seen = tuple(t[: chunk.mask.shape[1]].view(-1, *keys.shape[1:]) for t in read)  # type: ignore[assignment]
        output[chunk.tokens] = _attend_chunk(grouped[chunk.tokens], *seen, chunk.mask)
    return output.view(num_tokens, num_heads * head_dim)


def _attend_decode(
    queries: torch.Tensor, key_rows: torch.Tensor, value_rows: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """[sequences, kv_heads, group, head_dim] -> the same shape. The group stands where SDPA expects query positions,
    so that the keys of a key-value head are read once for all its query heads and never repeated in memory."""
    num_sequences, num_kv_heads, _, head_dim = queries.shape
    keys, values = (
        rows.view(num_sequences, -1, num_kv_heads, head_dim).transpose(1, 2) for rows in (key_rows, value_rows)
    )
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def _attend_chunk(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """[tokens, kv_heads, group, head_dim] -> the same shape. Key-value heads are the batch, and their keys stand for
    every query head of the group by a stride of zero."""
    group = queries.shape[2]
    key_heads, value_heads = (t.transpose(0, 1)[:, None].expand(-1, group, -1, -1) for t in (keys, values))
    output = F.scaled_dot_product_attention(
        queries.permute(1, 2, 0, 3), key_heads, value_heads, attn_mask=mask, is_causal=mask is None
    )
    return output.permute(2, 0, 1, 3)
