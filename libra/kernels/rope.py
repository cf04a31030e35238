"""Rotary embedding of queries and keys, fused with storing keys and values: the keys never go through memory twice."""

import torch

from libra.kernels.kv_write import layer_row
from libra.kernels.runtime import (
    Block,
    Pointer,
    check_head_dim,
    check_indices,
    check_operands,
    constexpr,
    jit,
    power_of_two,
    tl,
)
from libra.model.paged_kv import PagedKV
from libra.model.rope import rotate


def rotate_and_write(
    heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor, kv: PagedKV, layer: int, key_rows: torch.Tensor
) -> torch.Tensor:
    """Rotates a step's queries in place, its keys on their way to the pool; stores its values.

    Semantics: queries, keys, values = heads; queries = rotate(queries); write_kv(rotate(keys), values); return queries.

    ``heads`` [tokens, num_heads + 2 * kv_heads, head_dim]: queries, then keys, then values, tokens any distance apart.
    ``cos``, ``signed_sin`` [tokens, 1, head_dim] as from libra.model.rope.rotations. ``key_rows`` int32 [tokens], below
    0 for tokens that are padding and write nothing.
    Returns the view of the queries. Mutates them and HBM. Products are summed in float32 and rounded once.
    Raises ValueError for other shapes and strides, LibraError for odd heads and where no kernel can run.
    """
    check_operands(heads, cos, signed_sin, kv.rows)
    check_indices(key_rows)
    num_tokens, num_all, head_dim = heads.shape
    check_head_dim(head_dim)
    kv_heads = kv.width // head_dim
    num_heads = num_all - 2 * kv_heads
    if num_heads < 1 or kv_heads * head_dim != kv.width or len(key_rows) != num_tokens:
        raise ValueError(f"heads {tuple(heads.shape)} of {len(key_rows)} tokens beside KV {kv.width} wide")
    if not cos.shape == signed_sin.shape == (num_tokens, 1, head_dim) or heads.stride(1) != head_dim:
        raise ValueError(f"rotations {tuple(cos.shape)} for heads {tuple(heads.shape)} with strides {heads.stride()}")
    if not (cos.is_contiguous() and signed_sin.is_contiguous()):
        raise ValueError("rotations must be contiguous")
    if num_tokens:
        _rotate_kernel[(num_tokens, 3)](
            heads,
            cos,
            signed_sin,
            kv.rows,
            key_rows,
            heads.stride(0),
            layer,
            num_heads,
            kv_heads,
            head_dim,
            kv.block_tokens,
            power_of_two(num_heads),
            power_of_two(kv_heads),
            power_of_two(head_dim // 2),
        )
    return heads[:, :num_heads]


def rotate_and_write_reference(
    heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor, kv: PagedKV, layer: int, key_rows: torch.Tensor
) -> torch.Tensor:
    """``rotate_and_write`` in torch, computed in float32."""
    kv_heads = kv.width // heads.shape[2]
    num_heads = heads.shape[1] - 2 * kv_heads
    rotated = rotate(heads[:, : num_heads + kv_heads].float(), cos.float(), signed_sin.float()).to(heads.dtype)
    heads[:, :num_heads] = rotated[:, :num_heads]
    real = key_rows >= 0
    keys, values = rotated[real, num_heads:], heads[real, num_heads + kv_heads :]
    kv.write(key_rows[real].long() + 2 * layer * kv.block_tokens, keys.flatten(1), values.flatten(1))
    return heads[:, :num_heads]


@jit("layer")
def _rotate_kernel(
    heads: "Pointer",
    cos: "Pointer",
    signed_sin: "Pointer",
    pool: "Pointer",
    key_rows: "Pointer",
    token_stride: int,
    layer: int,
    NUM_HEADS: constexpr,
    KV_HEADS: constexpr,
    HEAD_DIM: constexpr,
    BLOCK_TOKENS: constexpr,
    BLOCK_HEADS: constexpr,
    BLOCK_KV_HEADS: constexpr,
    BLOCK_HALF: constexpr,
) -> None:
    """Program (token, part): part 0 are the queries, 1 the keys, 2 the values."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    WIDTH: constexpr = KV_HEADS * HEAD_DIM
    source = heads + token * token_stride
    if part == 0:
        low, high, low_at, high_at, inside = _rotated(
            source, cos, signed_sin, token, NUM_HEADS, HEAD_DIM, BLOCK_HEADS, BLOCK_HALF
        )
        tl.store(source + low_at, low.to(heads.dtype.element_ty), mask=inside)
        tl.store(source + high_at, high.to(heads.dtype.element_ty), mask=inside)
        return
    if tl.load(key_rows + token) < 0:
        return
    row = layer_row(key_rows, token, layer, BLOCK_TOKENS)
    if part == 1:
        keys = source + NUM_HEADS * HEAD_DIM
        low, high, low_at, high_at, inside = _rotated(
            keys, cos, signed_sin, token, KV_HEADS, HEAD_DIM, BLOCK_KV_HEADS, BLOCK_HALF
        )
        target = pool + row * WIDTH
        tl.store(target + low_at, low.to(heads.dtype.element_ty), mask=inside)
        tl.store(target + high_at, high.to(heads.dtype.element_ty), mask=inside)
    else:
        columns = tl.arange(0, BLOCK_KV_HEADS * BLOCK_HALF * 2)
        value = tl.load(source + NUM_HEADS * HEAD_DIM + WIDTH + columns, mask=columns < WIDTH)
        tl.store(pool + (row + BLOCK_TOKENS) * WIDTH + columns, value, mask=columns < WIDTH)


@jit()
def _rotated(
    source: "Pointer",
    cos: "Pointer",
    signed_sin: "Pointer",
    token: int,
    NUM_HEADS: constexpr,
    HEAD_DIM: constexpr,
    BLOCK_HEADS: constexpr,
    BLOCK_HALF: constexpr,
) -> "tuple[Block, ...]":
    """Both rotated halves of all heads of a token, [heads, head_dim / 2] in float32, where they go, and which exist."""
    HALF: constexpr = HEAD_DIM // 2
    dims = tl.arange(0, BLOCK_HALF)[None, :]
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    inside = (head < NUM_HEADS) & (dims < HALF)
    low_at = head * HEAD_DIM + dims
    high_at = low_at + HALF
    low = tl.load(source + low_at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + high_at, mask=inside, other=0.0).to(tl.float32)
    angle = token * HEAD_DIM + dims
    low_cos = tl.load(cos + angle, mask=dims < HALF, other=0.0).to(tl.float32)
    high_cos = tl.load(cos + angle + HALF, mask=dims < HALF, other=0.0).to(tl.float32)
    low_sin = tl.load(signed_sin + angle, mask=dims < HALF, other=0.0).to(tl.float32)
    high_sin = tl.load(signed_sin + angle + HALF, mask=dims < HALF, other=0.0).to(tl.float32)
    return low * low_cos + high * low_sin, high * high_cos + low * high_sin, low_at, high_at, inside
