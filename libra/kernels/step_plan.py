"""The indices of one step for every kernel and layer: made on the host once, on the device in one copy."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch

from libra.errors import LibraError
from libra.kernels.attention import TILE_COLUMNS, AttentionConfig, decode_config, prefill_config
from libra.kernels.lora import LoraBatch
from libra.kernels.lora_plan import LoraLayouts, LoraPlan, lora_config
from libra.kernels.runtime import ceil_div, check_can_launch, check_head_dim
from libra.kernels.step_buffer import Int32s, StepBuffer
from libra.model.attention import Span
from libra.model.backend import AdapterUse
from libra.model.packing import UnitLayout
from libra.model.paged_kv import PagedKV
from libra.spec import ModelSpec


@dataclass(frozen=True)
class AttentionLaunch:
    """``tiles`` int32 [tiles, 4] and the shape of the launch that takes them."""

    tiles: torch.Tensor
    config: AttentionConfig


@dataclass(frozen=True)
class TritonStep:
    """``key_rows`` int32 [tokens]: where layer 0's keys go. ``tables`` int32: the sequences' block tables one after
    another. ``lora`` None when no token has an adapter."""

    key_rows: torch.Tensor
    tables: torch.Tensor
    launches: tuple[AttentionLaunch, ...]
    lora: LoraBatch | None


class StepPlanner:
    """Plans steps over one pool. A plan is valid until the next one is made."""

    def __init__(self, kv: PagedKV, model: ModelSpec, layouts: Mapping[str, UnitLayout]) -> None:
        """Raises LibraError where no kernel can run, for heads the kernels cannot hold, and for a pool of more rows
        than int32 counts."""
        check_can_launch(kv.rows.device)
        check_head_dim(model.head_dim)
        if len(kv.rows) > np.iinfo(np.int32).max:
            raise LibraError(f"a pool of {len(kv.rows)} rows is more than int32 counts; use a smaller --hbm-cache-gib")
        self._kv = kv
        self._model = model
        self._element_bytes = kv.rows.element_size()
        self.layouts = LoraLayouts(layouts, self._element_bytes)
        self._buffer = StepBuffer(kv.rows.device)

    def plan(self, decode: Items[Span], prefill: Items[Span], use: AdapterUse | None) -> TritonStep:
        """A step whose tokens are those of ``decode``, one each, then those of ``prefill``, in order."""
        spans = [*decode, *prefill]
        key_rows = np.concatenate([self._kv.key_rows(*span) for span in spans]).astype(np.int32)
        tables, table_starts = block_tables(spans, self._kv.block_tokens)
        configs, tiles = self._attention_tiles(decode, prefill, table_starts)
        lora = None if use is None else self._plan_lora(use, is_decode=not prefill)
        lora_arrays = [] if lora is None else [lora.tiles, lora.rows, lora.records, lora.tables]
        on_device = self._buffer.put([key_rows, tables, *tiles, *lora_arrays])
        launches = tuple(map(AttentionLaunch, on_device[2:], configs))
        batch = None
        if lora is not None:
            lora_tiles, rows, records, lora_tables = on_device[-4:]
            batch = LoraBatch(lora_tiles, rows, records, lora_tables, lora.max_rank, lora.alignment, lora.config)
        return TritonStep(on_device[0], on_device[1], launches, batch)

    def _plan_lora(self, use: AdapterUse, is_decode: bool) -> LoraPlan | None:
        config = lora_config(num_adapter_tokens(use), len(use.blocks), is_decode)
        return self.layouts.plan(use.segments, use.blocks, config)

    def _attention_tiles(
        self, decode: Items[Span], prefill: Items[Span], table_starts: Items[int]
    ) -> tuple[list[AttentionConfig], list[Int32s]]:
        """A launch for the decoding sequences and one for the chunks, where there are any."""
        model = self._model
        group = model.num_heads // model.num_kv_heads
        configs, tiles = [], []
        if decode:
            longest = max(span.end for span in decode)
            configs.append(decode_config(len(decode), longest, model.num_kv_heads, group, self._element_bytes))
            tiles.append(attention_tiles(decode, 0, table_starts[: len(decode)], configs[-1].tile_tokens(group)))
        if prefill:
            longest = max(span.num_tokens for span in prefill)
            configs.append(prefill_config(longest, group, model.head_dim, self._element_bytes))
            tiles.append(
                attention_tiles(prefill, len(decode), table_starts[len(decode) :], configs[-1].tile_tokens(group))
            )
        return configs, tiles


def num_adapter_tokens(use: AdapterUse) -> int:
    """Tokens of a step that have an adapter."""
    return sum(end - start for start, end, adapter_id in use.segments if adapter_id is not None)


def block_tables(spans: Items[Span], block_tokens: int) -> tuple[Int32s, list[int]]:
    """The block tables as far as needed, one after another, and where each begins."""
    sizes = [ceil_div(span.end, block_tokens) for span in spans]
    tables = [np.asarray(span.block_table[:size], dtype=np.int32) for span, size in zip(spans, sizes, strict=True)]
    return np.concatenate(tables), np.cumsum([0, *sizes[:-1]]).tolist()


def attention_tiles(spans: Items[Span], first_row: int, table_starts: Items[int], tile_tokens: int) -> Int32s:
    """Cuts spans into tiles (libra.kernels.attention), the longest contexts first: they take longest."""
    tiles = []
    for span, table_start in zip(spans, table_starts, strict=True):
        for done in range(0, span.num_tokens, tile_tokens):
            num_tokens = min(tile_tokens, span.num_tokens - done)
            tiles.append((first_row + done, num_tokens, span.start + done, table_start))
        first_row += span.num_tokens
    tiles.sort(key=lambda tile: -tile[2])
    return np.array(tiles, dtype=np.int32).reshape(-1, TILE_COLUMNS)
