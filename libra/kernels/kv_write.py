"""Keys and values into pool blocks. The layout is libra.model.paged_kv's."""

import torch

from libra.kernels.runtime import Block, Pointer, check_indices, check_operands, constexpr, jit, power_of_two, tl
from libra.model.paged_kv import PagedKV


def write_kv(kv: PagedKV, layer: int, key_rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Stores one layer's keys and values of a step.

    Semantics: rows = key_rows + 2 * layer * block_tokens; kv.rows[rows] = keys; kv.rows[rows + block_tokens] = values.

    ``key_rows`` int32 [tokens]: layer 0's rows. ``keys``, ``values`` [tokens, kv_heads * head_dim] of the pool's dtype,
    rows any distance apart. Mutates HBM. Raises ValueError for other shapes, LibraError where no kernel can run.
    """
    check_operands(kv.rows, keys, values)
    check_indices(key_rows)
    if not keys.shape == values.shape == (len(key_rows), kv.width):
        raise ValueError(f"keys {tuple(keys.shape)} and values {tuple(values.shape)}, not {(len(key_rows), kv.width)}")
    if len(key_rows) == 0:
        return
    _write_kernel[(len(key_rows),)](
        keys,
        values,
        kv.rows,
        key_rows,
        keys.stride(0),
        values.stride(0),
        layer,
        kv.width,
        kv.block_tokens,
        power_of_two(kv.width),
    )


def write_kv_reference(
    kv: PagedKV, layer: int, key_rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> None:
    """``write_kv`` in torch."""
    kv.write(key_rows.long() + 2 * layer * kv.block_tokens, keys, values)


@jit("layer")
def layer_row(key_rows: "Pointer", token: int, layer: int, BLOCK_TOKENS: constexpr) -> "Block":
    """Row of a token's keys in ``layer``, int64: a pool holds more elements than int32 counts."""
    return tl.load(key_rows + token).to(tl.int64) + 2 * layer * BLOCK_TOKENS


@jit("layer")
def _write_kernel(
    keys: "Pointer",
    values: "Pointer",
    pool: "Pointer",
    key_rows: "Pointer",
    key_stride: int,
    value_stride: int,
    layer: int,
    WIDTH: constexpr,
    BLOCK_TOKENS: constexpr,
    BLOCK: constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    row = layer_row(key_rows, token, layer, BLOCK_TOKENS)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    key = tl.load(keys + token * key_stride + columns, mask=inside)
    value = tl.load(values + token * value_stride + columns, mask=inside)
    tl.store(pool + row * WIDTH + columns, key, mask=inside)
    tl.store(pool + (row + BLOCK_TOKENS) * WIDTH + columns, value, mask=inside)
