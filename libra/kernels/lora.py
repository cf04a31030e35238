"""Products with the adapters of a mixed batch, straight from the pool: ``out += B A x`` without a copy of A or B.

Unit u = rank_index * layers + layer of an adapter lies at
``block_table[u // units_per_block] * block_elems + (u % units_per_block) * unit_elems``, the rows of its modules behind
one another (libra.model.packing). So a program finds any rank row with one look-up, ranks are never padded, and one
launch takes any mixture: tokens are grouped by adapter and cut into *tiles*, and a program takes a tile.

    shrink   shrunk[split, slot, module, rank] = sum over a part of the input features of A[rank] * x
    expand   out[row] += sum over ranks of B[:, rank] * (sum over splits of shrunk)

Parts are summed where they are read, in a fixed order: no atomics, nothing to clear, the same result every time.
A *slot* is a token's place among those sorted by adapter. Modules that read one input share a launch.
"""

from dataclasses import dataclass

import torch

from libra.kernels.lora_plan import (
    RECORD_COLUMNS,
    RECORD_OFFSETS,
    RECORD_RANK,
    RECORD_TABLE,
    RECORD_UNIT_ELEMS,
    RECORD_UNITS_PER_BLOCK,
    TILE_COLUMNS,
    LoraConfig,
)
from libra.kernels.runtime import Block, Pointer, ceil_div, check_indices, check_operands, constexpr, dot, jit, tl
from libra.model.lora import ModuleGroup
from libra.spec import TARGET_MODULES

MAX_MODULES_OF_GROUP = 3


@dataclass(frozen=True)
class LoraBatch:
    """The adapters of one step on the device, all int32: see libra.kernels.lora_plan for the columns.

    ``tiles`` [tiles, 4], ``rows`` [slots] (a slot's row of x and of out), ``records`` [adapters, 12], ``tables`` the
    block tables one after another. ``max_rank`` bounds every rank and is a multiple of ``config.block_rank``.
    ``alignment``: a power of two that divides where every row of every unit begins, in elements.
    """

    tiles: torch.Tensor
    rows: torch.Tensor
    records: torch.Tensor
    tables: torch.Tensor
    max_rank: int
    alignment: int
    config: LoraConfig

    def new_shrunk(self, num_modules: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """What ``shrink`` fills for up to ``num_modules`` modules: parts in float32; a sum with no other parts in
        ``dtype``, since rounding it now or in ``expand`` is the same."""
        shape = (self.config.splits, len(self.rows), num_modules, self.max_rank)
        return torch.empty(shape, dtype=dtype if self.config.splits == 1 else torch.float32, device=device)


def shrink(
    batch: LoraBatch, arena: torch.Tensor, num_layers: int, layer: int, group: ModuleGroup, x: torch.Tensor,
    shrunk: torch.Tensor,
) -> None:  # fmt: skip
    """Multiplies each token by A of its adapter.

    Semantics: for slot s of adapter a, module m of ``group`` that a targets, rank r of a, t = rows[s]:
    sum over splits p of shrunk[p, s, m, r] = A_a,m[r] . x[t]; zero for ranks beyond a's own, as far as whole blocks of
    ranks reach. There are as many splits as the group has features for.

    ``arena`` [blocks, block_elems] and ``x`` [tokens, group.fan_in] of one dtype, tokens any distance apart. ``shrunk``
    as from ``new_shrunk``; other elements keep what they hold. Sums are float32. Mutates ``shrunk``.
    Raises ValueError for other shapes, LibraError where no kernel can run.
    """
    _check(batch, arena, group, x, group.fan_in, shrunk)
    config = batch.config
    if len(batch.tiles) == 0:
        return
    rank_blocks = batch.max_rank // config.block_rank
    split_features = _split_features(config, group)
    splits = ceil_div(group.fan_in, split_features)
    _shrink_kernel[(len(batch.tiles), len(group.modules) * rank_blocks, splits)](
        x,
        arena,
        shrunk,
        batch.tiles,
        batch.rows,
        batch.records,
        batch.tables,
        x.stride(0),
        len(batch.rows),
        arena.stride(0),
        layer,
        num_layers,
        shrunk.stride(1),
        group.fan_in,
        split_features,
        TARGET_MODULES.index(group.modules[0]),
        batch.max_rank,
        batch.alignment,
        config.block_tokens,
        config.block_rank,
        config.block_features,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def shrink_reference(
    batch: LoraBatch, arena: torch.Tensor, num_layers: int, layer: int, group: ModuleGroup, x: torch.Tensor,
    shrunk: torch.Tensor,
) -> None:  # fmt: skip
    """``shrink`` in torch, computed in float32: the whole sum in the first split, zero in the others."""
    splits = ceil_div(group.fan_in, _split_features(batch.config, group))
    for record, slots in _tiles(batch):
        units = _units(batch, arena, num_layers, layer, record)
        for index, module in enumerate(group.modules):
            start = int(record[RECORD_OFFSETS + TARGET_MODULES.index(module)])
            if start >= 0:
                a = units[:, start : start + group.fan_in].float()
                block_rank = batch.config.block_rank
                shrunk[:splits, slots, index, : ceil_div(len(a), block_rank) * block_rank] = 0.0
                shrunk[0, slots, index, : len(a)] = (x[batch.rows[slots].long()].float() @ a.T).to(shrunk.dtype)


def expand(
    batch: LoraBatch, arena: torch.Tensor, num_layers: int, layer: int, group: ModuleGroup, shrunk: torch.Tensor,
    out: torch.Tensor,
) -> None:  # fmt: skip
    """Adds B of each token's adapter times what ``shrink`` made.

    Semantics: for slot s of adapter a, module m of ``group`` that a targets, t = rows[s]:
    out[t, columns of m] += sum over r < rank of a, splits p: B_a,m[:, r] * shrunk[p, s, m, r].

    ``arena`` as for ``shrink``; ``out`` [tokens, group's out features] of its dtype, tokens any distance apart, no two
    slots of one row. Rows of no slot, and columns of modules not targeted, keep what they hold. The sum is float32,
    rounded once with what ``out`` held. Mutates ``out``.
    Raises ValueError for other shapes, LibraError where no kernel can run.
    """
    _check(batch, arena, group, out, group.num_pieces * group.piece_width, shrunk)
    config = batch.config
    if len(batch.tiles) == 0:
        return
    widths = [pieces * group.piece_width for pieces in group.pieces]
    widths += [0] * (MAX_MODULES_OF_GROUP - len(widths))
    column_blocks = sum(ceil_div(width, config.block_columns) for width in widths)
    _expand_kernel[(len(batch.tiles), column_blocks)](
        shrunk,
        arena,
        out,
        batch.tiles,
        batch.rows,
        batch.records,
        batch.tables,
        out.stride(0),
        len(batch.rows),
        arena.stride(0),
        layer,
        num_layers,
        shrunk.stride(1),
        group.fan_in,
        ceil_div(group.fan_in, _split_features(config, group)),
        TARGET_MODULES.index(group.modules[0]),
        widths[0],
        widths[1],
        widths[2],
        batch.max_rank,
        batch.alignment,
        config.block_tokens,
        config.block_expand_rank,
        config.block_columns,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def expand_reference(
    batch: LoraBatch, arena: torch.Tensor, num_layers: int, layer: int, group: ModuleGroup, shrunk: torch.Tensor,
    out: torch.Tensor,
) -> None:  # fmt: skip
    """``expand`` in torch, computed in float32."""
    splits = ceil_div(group.fan_in, _split_features(batch.config, group))
    for record, slots in _tiles(batch):
        units = _units(batch, arena, num_layers, layer, record)
        rows = batch.rows[slots].long()
        for index, module in enumerate(group.modules):
            start = int(record[RECORD_OFFSETS + TARGET_MODULES.index(module)]) + group.fan_in
            if start >= group.fan_in:
                columns = group.columns(index)
                b = units[:, start : start + columns.stop - columns.start].float()
                total = shrunk[:splits, slots, index, : len(b)].float().sum(0) @ b
                out[rows, columns] = (out[rows, columns].float() + total).to(out.dtype)


def _check(
    batch: LoraBatch, arena: torch.Tensor, group: ModuleGroup, x: torch.Tensor, width: int, shrunk: torch.Tensor
) -> None:
    check_operands(arena, x)
    check_indices(batch.tiles, batch.rows, batch.records, batch.tables)
    if not arena.is_contiguous() or x.shape[1] != width:
        raise ValueError(f"{x.shape[1]} columns of group {group.modules}, not {width}, or a pool that is cut")
    if batch.tiles.shape[1:] != (TILE_COLUMNS,) or batch.records.shape[1:] != (RECORD_COLUMNS,):
        raise ValueError(f"tiles {tuple(batch.tiles.shape)} or records {tuple(batch.records.shape)} have wrong columns")
    expected = (batch.config.splits, len(batch.rows), batch.max_rank)
    shape = shrunk.shape
    if (shape[0], shape[1], shape[3]) != expected or shape[2] < len(group.modules) or not shrunk.is_contiguous():
        raise ValueError(f"shrunk {tuple(shape)} for {len(group.modules)} modules and splits, slots, rank {expected}")


def _split_features(config: LoraConfig, group: ModuleGroup) -> int:
    """Input features of one split: whole blocks of them. Few features make fewer splits than ``config.splits``."""
    return ceil_div(ceil_div(group.fan_in, config.block_features), config.splits) * config.block_features


def _tiles(batch: LoraBatch) -> list[tuple[torch.Tensor, slice]]:
    """The record and the slots of each tile."""
    tiles = batch.tiles.tolist()
    return [(batch.records[adapter], slice(start, start + count)) for adapter, start, count, _ in tiles if count]


def _units(batch: LoraBatch, arena: torch.Tensor, num_layers: int, layer: int, record: torch.Tensor) -> torch.Tensor:
    """An adapter's units of one layer, [rank, unit elements]."""
    fields = record.tolist()
    per_block, size = fields[RECORD_UNITS_PER_BLOCK], fields[RECORD_UNIT_ELEMS]
    units = torch.arange(fields[RECORD_RANK], device=arena.device) * num_layers + layer
    blocks = batch.tables[fields[RECORD_TABLE] + units // per_block].long()
    starts = blocks * arena.shape[1] + units % per_block * size
    return arena.view(-1)[starts[:, None] + torch.arange(size, device=arena.device)]


@jit("layer")
def _unit_starts(
    record: "Pointer", tables: "Pointer", ranks: "Block", inside: "Block", block_elems: int, layer: int,
    NUM_LAYERS: constexpr, ALIGNMENT: constexpr,
) -> "Block":  # fmt: skip
    """Where the units of ``ranks`` begin in the arena, int64. Columns of ``record`` as in RECORD_*."""
    units_per_block = tl.load(record + 1)
    unit_elems = tl.load(record + 2)
    table = tables + tl.load(record + 3)
    units = ranks * NUM_LAYERS + layer
    blocks = tl.load(table + units // units_per_block, mask=inside, other=0)
    starts = blocks.to(tl.int64) * block_elems + (units % units_per_block) * unit_elems
    # Said aloud, so that loads are 16 bytes wide: a look-up hides it from the compiler.
    return tl.multiple_of(starts, ALIGNMENT)


@jit("num_slots", "layer")
def _shrink_kernel(
    x: "Pointer",
    arena: "Pointer",
    shrunk: "Pointer",
    tiles: "Pointer",
    rows: "Pointer",
    records: "Pointer",
    tables: "Pointer",
    x_stride: int,
    num_slots: int,
    block_elems: int,
    layer: int,
    NUM_LAYERS: constexpr,
    SLOT_STRIDE: constexpr,
    FAN_IN: constexpr,
    SPLIT_FEATURES: constexpr,
    FIRST_MODULE: constexpr,
    MAX_RANK: constexpr,
    ALIGNMENT: constexpr,
    BLOCK_TOKENS: constexpr,
    BLOCK_RANK: constexpr,
    BLOCK_FEATURES: constexpr,
) -> None:
    """Program (tile, module and block of ranks, split). Columns of tiles and records as in TILE_* and RECORD_*."""
    tile = tiles + 4 * tl.program_id(0)
    count = tl.load(tile + 2)
    if count == 0:
        return
    RANK_BLOCKS: constexpr = MAX_RANK // BLOCK_RANK
    module = tl.program_id(1) // RANK_BLOCKS
    first_rank = tl.program_id(1) % RANK_BLOCKS * BLOCK_RANK
    record = records + 12 * tl.load(tile)
    rank = tl.load(record)
    module_start = tl.load(record + 4 + FIRST_MODULE + module)
    if (first_rank >= rank) | (module_start < 0):
        return
    first_slot = tl.load(tile + 1)
    ranks = first_rank + tl.arange(0, BLOCK_RANK)
    starts = _unit_starts(record, tables, ranks, ranks < rank, block_elems, layer, NUM_LAYERS, ALIGNMENT)
    a_rows = arena + tl.multiple_of(module_start, ALIGNMENT) + starts[:, None]
    features = tl.arange(0, BLOCK_FEATURES)
    split = tl.program_id(2)
    first_feature = split * SPLIT_FEATURES
    last_feature = tl.minimum(first_feature + SPLIT_FEATURES, FAN_IN)
    target = shrunk + split * num_slots * SLOT_STRIDE + module * MAX_RANK

    if BLOCK_TOKENS == 1:
        x_row = x + tl.load(rows + first_slot).to(tl.int64) * x_stride
        products = tl.zeros([BLOCK_RANK, BLOCK_FEATURES], tl.float32)
        for start in range(first_feature, last_feature, BLOCK_FEATURES):
            at = start + features
            a_inside = (ranks < rank)[:, None] & (at < last_feature)[None, :]
            a = tl.load(a_rows + at[None, :], mask=a_inside, other=0.0)
            value = tl.load(x_row + at, mask=at < last_feature, other=0.0)
            products += a.to(tl.float32) * value.to(tl.float32)[None, :]
        result = tl.sum(products, 1).to(shrunk.dtype.element_ty)
        tl.store(target + first_slot * SLOT_STRIDE + ranks, result)
    else:
        slots = tl.arange(0, BLOCK_TOKENS)
        x_rows = tl.load(rows + first_slot + slots, mask=slots < count, other=0).to(tl.int64) * x_stride
        total = tl.zeros([BLOCK_TOKENS, BLOCK_RANK], tl.float32)
        for start in range(first_feature, last_feature, BLOCK_FEATURES):
            at = start + features
            a_inside = (ranks < rank)[:, None] & (at < last_feature)[None, :]
            a = tl.load(a_rows + at[None, :], mask=a_inside, other=0.0)
            x_inside = (slots < count)[:, None] & (at < last_feature)[None, :]
            values = tl.load(x + x_rows[:, None] + at[None, :], mask=x_inside, other=0.0)
            total = dot(values, a.T, total)
        cells = (first_slot + slots)[:, None] * SLOT_STRIDE + ranks[None, :]
        tl.store(target + cells, total.to(shrunk.dtype.element_ty), mask=(slots < count)[:, None])


@jit("num_slots", "layer")
def _expand_kernel(
    shrunk: "Pointer",
    arena: "Pointer",
    out: "Pointer",
    tiles: "Pointer",
    rows: "Pointer",
    records: "Pointer",
    tables: "Pointer",
    out_stride: int,
    num_slots: int,
    block_elems: int,
    layer: int,
    NUM_LAYERS: constexpr,
    SLOT_STRIDE: constexpr,
    FAN_IN: constexpr,
    SPLITS: constexpr,
    FIRST_MODULE: constexpr,
    WIDTH_0: constexpr,
    WIDTH_1: constexpr,
    WIDTH_2: constexpr,
    MAX_RANK: constexpr,
    ALIGNMENT: constexpr,
    BLOCK_TOKENS: constexpr,
    BLOCK_RANK: constexpr,
    BLOCK_COLUMNS: constexpr,
) -> None:
    """Program (tile, block of columns of one module): the only one that touches these elements of ``out``."""
    tile = tiles + 4 * tl.program_id(0)
    count = tl.load(tile + 2)
    if count == 0:
        return
    # Blocks of columns never straddle modules: module 0 has the first BLOCKS_0 of them, module 1 the next BLOCKS_1.
    BLOCKS_0: constexpr = (WIDTH_0 + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    BLOCKS_1: constexpr = (WIDTH_1 + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    block = tl.program_id(1)
    module = (block >= BLOCKS_0).to(tl.int32) + (block >= BLOCKS_0 + BLOCKS_1).to(tl.int32)
    first_block = tl.where(module == 0, 0, tl.where(module == 1, BLOCKS_0, BLOCKS_0 + BLOCKS_1))
    width = tl.where(module == 0, WIDTH_0, tl.where(module == 1, WIDTH_1, WIDTH_2))
    out_column = tl.where(module == 0, 0, tl.where(module == 1, WIDTH_0, WIDTH_0 + WIDTH_1))
    record = records + 12 * tl.load(tile)
    rank = tl.load(record)
    module_start = tl.load(record + 4 + FIRST_MODULE + module)
    if module_start < 0:
        return
    first_slot = tl.load(tile + 1)
    columns = (block - first_block) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    b_columns = arena + tl.multiple_of(module_start + FAN_IN, ALIGNMENT) + columns
    source = shrunk + module * MAX_RANK
    in_module = columns < width
    # Whole sixteens of ranks are written, zero beyond the adapter's own. A mask by sixteens keeps loads wide, and
    # leaves what is loaded as it is: a product on wgmma must not take it from registers (see LONG_PREFILL).
    written = tl.multiple_of(tl.cdiv(rank, 16) * 16, 16)

    if BLOCK_TOKENS == 1:
        sums = tl.zeros([BLOCK_COLUMNS], tl.float32)
        for first_rank in range(0, rank, BLOCK_RANK):
            ranks = first_rank + tl.arange(0, BLOCK_RANK)
            starts = _unit_starts(record, tables, ranks, ranks < rank, block_elems, layer, NUM_LAYERS, ALIGNMENT)
            b_inside = (ranks < rank)[:, None] & in_module[None, :]
            b = tl.load(b_columns[None, :] + starts[:, None], mask=b_inside, other=0.0)
            at = source + first_slot * SLOT_STRIDE + ranks
            h = tl.load(at, mask=ranks < written, other=0.0).to(tl.float32)
            for split in tl.static_range(1, SPLITS):
                h += tl.load(at + split * num_slots * SLOT_STRIDE, mask=ranks < written, other=0.0)
            sums += tl.sum(h[:, None] * b.to(tl.float32), 0)
        target = out + tl.load(rows + first_slot).to(tl.int64) * out_stride + out_column + columns
        held = tl.load(target, mask=in_module, other=0.0).to(tl.float32)
        tl.store(target, (held + sums).to(out.dtype.element_ty), mask=in_module)
    else:
        slots = tl.arange(0, BLOCK_TOKENS)
        real = slots < count
        total = tl.zeros([BLOCK_TOKENS, BLOCK_COLUMNS], tl.float32)
        for first_rank in range(0, rank, BLOCK_RANK):
            ranks = first_rank + tl.arange(0, BLOCK_RANK)
            starts = _unit_starts(record, tables, ranks, ranks < rank, block_elems, layer, NUM_LAYERS, ALIGNMENT)
            b_inside = (ranks < rank)[:, None] & in_module[None, :]
            b = tl.load(b_columns[None, :] + starts[:, None], mask=b_inside, other=0.0)
            at = source + (first_slot + slots)[:, None] * SLOT_STRIDE + ranks[None, :]
            inside = real[:, None] & (ranks < written)[None, :]
            h = tl.load(at, mask=inside, other=0.0)
            for split in tl.static_range(1, SPLITS):
                h += tl.load(at + split * num_slots * SLOT_STRIDE, mask=inside, other=0.0)
            total = dot(h.to(b.dtype), b, total)
        out_rows = tl.load(rows + first_slot + slots, mask=real, other=0).to(tl.int64) * out_stride
        target = out + out_rows[:, None] + (out_column + columns)[None, :]
        inside = real[:, None] & in_module[None, :]
        held = tl.load(target, mask=inside, other=0.0).to(tl.float32)
        tl.store(target, (held + total).to(out.dtype.element_ty), mask=inside)
