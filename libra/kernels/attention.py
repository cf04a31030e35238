"""Attention over paged KV, for decoding sequences and for prefill chunks behind a cached prefix.

The keys and values of the step's own tokens are in the pool before it runs, so a chunk sees its prefix and itself in
the same place. A *tile* is a few tokens of one sequence, and a program takes a tile, one key-value head, and all query
heads that read it: rows = tokens x group, so that each key is read once for the whole group. The context of decoding
sequences, with little else to share out, is split over programs as well; a second kernel merges their sums.
"""

import math
from dataclasses import dataclass

import torch

from libra.kernels.runtime import (
    Block,
    Pointer,
    ceil_div,
    check_head_dim,
    check_indices,
    check_operands,
    constexpr,
    dot,
    jit,
    pipelines_register_operands,
    power_of_two,
    tl,
)
from libra.model.paged_kv import PagedKV

# Columns of a tile's record.
TILE_FIRST_ROW, TILE_TOKENS, TILE_POSITION, TILE_TABLE = range(4)
TILE_COLUMNS = 4


@dataclass(frozen=True)
class AttentionConfig:
    """Shape of a launch. ``block_rows``: tokens x group of a tile, at least 16. ``block_keys``: positions read at a
    time. ``splits``: programs that share a context."""

    block_rows: int
    block_keys: int
    splits: int
    num_warps: int
    num_stages: int

    def tile_tokens(self, group: int) -> int:
        """Tokens of a tile for ``group`` query heads per key-value head."""
        return self.block_rows // group


# Programs wanted in flight: about four on each of an H100's or H200's 132 processors.
_WANTED_PROGRAMS = 512
MIN_SPLIT_TOKENS = 256
MAX_SPLITS = 32


def decode_config(num_sequences: int, longest: int, kv_heads: int, group: int, element_bytes: int) -> AttentionConfig:
    """One token each: as many splits as fill the device, none shorter than is worth merging. ``longest`` in tokens.

    Splits are a power of two: the kernel is compiled anew for each number of them.
    """
    wanted = min(ceil_div(_WANTED_PROGRAMS, max(1, num_sequences * kv_heads)), longest // MIN_SPLIT_TOKENS)
    splits = min(MAX_SPLITS, 1 << max(0, wanted.bit_length() - 1))
    return AttentionConfig(max(16, power_of_two(group)), 64 if element_bytes == 2 else 32, splits, 4, 3)


def prefill_config(longest_chunk: int, group: int, head_dim: int, element_bytes: int) -> AttentionConfig:
    """Chunks: the largest tiles that stay in registers, no splits."""
    largest = 32 if element_bytes == 4 else 128 if head_dim <= 128 else 64
    rows = max(16, power_of_two(group), min(largest, power_of_two(max(longest_chunk, 1) * group)))
    stages = pipeline_stages(rows, 2)
    return AttentionConfig(rows, 64 if element_bytes == 2 else 32, 1, 8 if rows >= 128 else 4, stages)


def pipeline_stages(block_rows: int, wanted: int) -> int:
    """``wanted``, or 1 where more are miscompiled: tiles of 64 rows and more are multiplied by wgmma, which takes the
    weights from registers."""
    return wanted if block_rows < 64 or pipelines_register_operands() else 1


def attend(
    queries: torch.Tensor,
    kv: PagedKV,
    layer: int,
    tiles: torch.Tensor,
    tables: torch.Tensor,
    config: AttentionConfig,
    output: torch.Tensor,
) -> None:
    """Attention of the tiles' tokens to all positions up to their own.

    Semantics: for each tile, token i < TOKENS of it, head h: p = POSITION + i, keys and values = positions 0 .. p of
    the block table at ``tables[TABLE:]``, head h // group;
    output[FIRST_ROW + i, h] = softmax(queries[FIRST_ROW + i, h] . keys / sqrt(head_dim)) . values.

    ``queries`` [tokens, heads, head_dim], tokens any distance apart; ``output`` the same shape, contiguous, both of the
    pool's dtype. ``tiles`` int32 [tiles, 4] (TILE_*), of at most ``config.tile_tokens`` tokens; TOKENS 0 is padding.
    ``tables`` int32, the block tables one after another. Rows of no tile keep what they hold. Mutates ``output``.
    Scores and sums are float32; probabilities are rounded to the dtype before they meet the values.
    Raises ValueError for other shapes and strides, LibraError for heads too large and where no kernel can run.
    """
    check_operands(queries, kv.rows, output)
    check_indices(tiles, tables)
    num_tokens, num_heads, head_dim = queries.shape
    check_head_dim(head_dim)
    kv_heads = kv.width // head_dim
    if kv_heads * head_dim != kv.width or num_heads % max(1, kv_heads):
        raise ValueError(f"queries {tuple(queries.shape)} beside KV {kv.width} wide")
    group = num_heads // kv_heads
    if output.shape != queries.shape or not output.is_contiguous() or queries.stride(1) != head_dim:
        raise ValueError(f"output {tuple(output.shape)} or strides {queries.stride()} do not fit {queries.shape}")
    if tiles.shape[1:] != (TILE_COLUMNS,) or config.tile_tokens(group) < 1:
        raise ValueError(f"tiles {tuple(tiles.shape)} of {config.block_rows} rows for groups of {group} heads")
    if len(tiles) == 0:
        return
    # With one split the first kernel writes the output itself, and these are never touched.
    sums, weights = output, output
    if config.splits > 1:
        sums = torch.empty(config.splits, *output.shape, dtype=torch.float32, device=output.device)
        weights = sums.new_empty(config.splits, num_tokens, num_heads)
    _attention_kernel[(len(tiles), kv_heads, config.splits)](
        queries,
        kv.rows,
        sums,
        weights,
        tiles,
        tables,
        queries.stride(0),
        num_tokens,
        layer,
        math.log2(math.e) / math.sqrt(head_dim),
        kv.num_layers,
        kv.block_tokens,
        kv_heads,
        group,
        head_dim,
        max(16, power_of_two(head_dim)),
        config.block_rows,
        config.block_keys,
        config.splits,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    if config.splits > 1:
        _merge_kernel[(len(tiles), num_heads)](
            sums,
            weights,
            output,
            tiles,
            num_tokens,
            num_heads,
            head_dim,
            power_of_two(head_dim),
            config.splits,
            power_of_two(config.splits),
            num_warps=1,
        )


def attend_reference(
    queries: torch.Tensor,
    kv: PagedKV,
    layer: int,
    tiles: torch.Tensor,
    tables: torch.Tensor,
    config: AttentionConfig,
    output: torch.Tensor,
) -> None:
    """``attend`` in torch, computed in float32."""
    head_dim = queries.shape[2]
    group = queries.shape[1] // (kv.width // head_dim)
    for first_row, num_tokens, position, table in tiles.tolist():
        if num_tokens == 0:
            continue
        end = position + num_tokens
        blocks = tables[table : table + ceil_div(end, kv.block_tokens)].long()
        keys, values = (
            rows[:end].view(end, -1, head_dim).repeat_interleave(group, 1).float()
            for rows in kv.read((blocks * kv.num_layers + layer) * 2)
        )
        rows = slice(first_row, first_row + num_tokens)
        scores = torch.einsum("qhd,khd->hqk", queries[rows].float(), keys) / math.sqrt(head_dim)
        later = torch.arange(end) > torch.arange(position, end)[:, None]
        weights = scores.masked_fill(later.to(scores.device), -torch.inf).softmax(-1)
        output[rows] = torch.einsum("hqk,khd->qhd", weights, values).to(output.dtype)


@jit("num_tokens", "layer")
def _attention_kernel(
    queries: "Pointer",
    pool: "Pointer",
    sums: "Pointer",
    log_weights: "Pointer",
    tiles: "Pointer",
    tables: "Pointer",
    query_stride: int,
    num_tokens: int,
    layer: int,
    scale: float,
    NUM_LAYERS: constexpr,
    BLOCK_TOKENS: constexpr,
    KV_HEADS: constexpr,
    GROUP: constexpr,
    HEAD_DIM: constexpr,
    BLOCK_DIM: constexpr,
    BLOCK_ROWS: constexpr,
    BLOCK_KEYS: constexpr,
    SPLITS: constexpr,
) -> None:
    """Program (tile, key-value head, split). Scores are in units of log 2.

    With one split ``sums`` is the output. With several it is float32 [splits, tokens, heads, head_dim], each split's
    own softmax average, and ``log_weights`` [splits, tokens, heads] the logarithm of what its softmax summed to, -inf
    where it saw nothing.
    """
    tile = tiles + 4 * tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    tile_tokens = tl.load(tile + 1)
    if tile_tokens == 0:
        return
    first_row = tl.load(tile)
    first_position = tl.load(tile + 2)
    table = tables + tl.load(tile + 3)

    rows = tl.arange(0, BLOCK_ROWS)
    dims = tl.arange(0, BLOCK_DIM)
    token = rows // GROUP
    head = kv_head * GROUP + rows % GROUP
    real = token < tile_tokens
    inside = real[:, None] & (dims < HEAD_DIM)[None, :]
    query_at = (first_row + token).to(tl.int64) * query_stride + head * HEAD_DIM
    query = tl.load(queries + query_at[:, None] + dims[None, :], mask=inside, other=0.0)
    positions = first_position + token

    highest = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    average = tl.zeros([BLOCK_ROWS, BLOCK_DIM], tl.float32)
    # Each split takes whole key blocks, equally many of them; the last ones of a short context take none.
    end = first_position + tile_tokens
    share = tl.cdiv(tl.cdiv(end, BLOCK_KEYS), SPLITS) * BLOCK_KEYS
    start = split * share
    stop = tl.minimum(start + share, end)
    # Up to the tile's first position every row sees every key, and nothing needs a mask.
    all_seen = tl.minimum(first_position + 1, stop)
    masked_from = start + tl.maximum(all_seen - start, 0) // BLOCK_KEYS * BLOCK_KEYS
    pool += 2 * BLOCK_TOKENS * layer * (KV_HEADS * HEAD_DIM) + kv_head * HEAD_DIM
    for first_key in range(start, masked_from, BLOCK_KEYS):
        highest, total, average = _see_keys(
            query, positions, highest, total, average, pool, table, first_key, stop, scale,
            NUM_LAYERS, BLOCK_TOKENS, KV_HEADS * HEAD_DIM, HEAD_DIM, BLOCK_DIM, BLOCK_KEYS, False,
        )  # fmt: skip
    for first_key in range(masked_from, stop, BLOCK_KEYS):
        highest, total, average = _see_keys(
            query, positions, highest, total, average, pool, table, first_key, stop, scale,
            NUM_LAYERS, BLOCK_TOKENS, KV_HEADS * HEAD_DIM, HEAD_DIM, BLOCK_DIM, BLOCK_KEYS, True,
        )  # fmt: skip

    seen = total > 0.0
    average = average / tl.where(seen, total, 1.0)[:, None]
    split_row = (split * num_tokens + first_row + token).to(tl.int64)
    at = split_row * (KV_HEADS * GROUP) + head
    tl.store(sums + at[:, None] * HEAD_DIM + dims[None, :], average.to(sums.dtype.element_ty), mask=inside)
    if SPLITS > 1:
        weight = tl.where(seen, highest + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(log_weights + at, weight, mask=real)


@jit()
def _see_keys(
    query: "Block", positions: "Block", highest: "Block", total: "Block", average: "Block", pool: "Pointer",
    table: "Pointer", first_key: "Block", stop: "Block", scale: float,
    NUM_LAYERS: constexpr, BLOCK_TOKENS: constexpr, WIDTH: constexpr, HEAD_DIM: constexpr, BLOCK_DIM: constexpr,
    BLOCK_KEYS: constexpr, MASKED: constexpr,
) -> "tuple[Block, ...]":  # fmt: skip
    """The running softmax (highest score, sum of weights, weighted sum of values) after ``BLOCK_KEYS`` more keys."""
    dims = tl.arange(0, BLOCK_DIM)
    keys = first_key + tl.arange(0, BLOCK_KEYS)
    inside = (dims < HEAD_DIM)[None, :]
    if MASKED:
        inside = inside & (keys < stop)[:, None]
        blocks = tl.load(table + keys // BLOCK_TOKENS, mask=keys < stop, other=0)
    else:
        blocks = tl.load(table + keys // BLOCK_TOKENS)
    slots = blocks.to(tl.int64) * (2 * NUM_LAYERS * BLOCK_TOKENS) + keys % BLOCK_TOKENS
    at = slots[:, None] * WIDTH + dims[None, :]
    key = tl.load(pool + at, mask=inside, other=0.0)
    scores = dot(query, key.T, tl.zeros([query.shape[0], BLOCK_KEYS], tl.float32)) * scale
    if MASKED:
        visible = (keys[None, :] <= positions[:, None]) & (keys < stop)[None, :]
        scores = tl.where(visible, scores, float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, 1))
    # A row that has seen nothing yet: any finite number gives weights of zero instead of NaN.
    finite = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp2(scores - finite[:, None])
    rescale = tl.exp2(highest - finite)
    total = total * rescale + tl.sum(weights, 1)
    value = tl.load(pool + at + BLOCK_TOKENS * WIDTH, mask=inside, other=0.0)
    average = dot(weights.to(value.dtype), value, average * rescale[:, None])
    return higher, total, average


@jit("num_tokens")
def _merge_kernel(
    sums: "Pointer",
    log_weights: "Pointer",
    output: "Pointer",
    tiles: "Pointer",
    num_tokens: int,
    NUM_HEADS: constexpr,
    HEAD_DIM: constexpr,
    BLOCK_DIM: constexpr,
    SPLITS: constexpr,
    BLOCK_SPLITS: constexpr,
) -> None:
    """Program (tile, head): the splits' averages, weighted by what each summed to, for every token of the tile."""
    tile = tiles + 4 * tl.program_id(0)
    head = tl.program_id(1)
    first_row = tl.load(tile)
    splits = tl.arange(0, BLOCK_SPLITS)
    dims = tl.arange(0, BLOCK_DIM)
    for token in range(0, tl.load(tile + 1)):
        row = first_row + token
        at = (splits * num_tokens + row).to(tl.int64) * NUM_HEADS + head
        weight = tl.load(log_weights + at, mask=splits < SPLITS, other=float("-inf"))
        seen = weight > float("-inf")
        weight = tl.exp2(weight - tl.max(weight, 0))
        inside = seen[:, None] & (dims < HEAD_DIM)[None, :]
        average = tl.load(sums + at[:, None] * HEAD_DIM + dims[None, :], mask=inside, other=0.0)
        merged = tl.sum(average * weight[:, None], 0) / tl.sum(weight, 0)
        target = output + (row.to(tl.int64) * NUM_HEADS + head) * HEAD_DIM + dims
        tl.store(target, merged.to(output.dtype.element_ty), mask=dims < HEAD_DIM)
