"""The indices of one step for every kernel and layer: made on the host once, on the device in one copy."""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import islice

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
from libra.model.lora import Segment
from libra.model.packing import UnitLayout
from libra.model.paged_kv import PagedKV
from libra.spec import ModelSpec


@dataclass(frozen=True)
class AttentionLaunch:
    """``tiles`` int32 [tiles, 4] of the step's first ``num_tokens`` tokens, and the shape of the launch that takes
    them. What splits sum up in has room for these tokens, so a launch must not count those it has no tiles for."""

    tiles: torch.Tensor
    num_tokens: int
    config: AttentionConfig


@dataclass(frozen=True)
class TritonStep:
    """``key_rows`` int32 [tokens]: where layer 0's keys go. ``tables`` int32: the sequences' block tables one after
    another. ``lora`` None when no token has an adapter; ``output_lora`` over the step's output rows alone, None when
    none of those has one, or when every token is one of them."""

    key_rows: torch.Tensor
    tables: torch.Tensor
    launches: tuple[AttentionLaunch, ...]
    lora: LoraBatch | None
    output_lora: LoraBatch | None = None


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
        launches = self._attention_launches(decode, prefill, table_starts)
        lora = None if use is None else self._plan_lora(use.segments, use, is_decode=not prefill)
        # The last layer goes on with one token of each sequence, as a decode step does.
        outputs = self._plan_lora(use.outputs, use, is_decode=True) if use is not None and prefill else None
        lora_arrays = [array for plan in (lora, outputs) if plan is not None for array in plan.arrays]
        attention_arrays = [key_rows, tables, *(tiles for tiles, *_ in launches)]
        on_device = iter(self._buffer.put([*attention_arrays, *lora_arrays]))
        return TritonStep(
            key_rows=next(on_device),
            tables=next(on_device),
            launches=tuple(AttentionLaunch(next(on_device), count, config) for _, count, config in launches),
            lora=_batch(lora, on_device),
            output_lora=_batch(outputs, on_device),
        )

    def _plan_lora(self, segments: Items[Segment], use: AdapterUse, is_decode: bool) -> LoraPlan | None:
        return self.layouts.plan(segments, use.blocks, lora_config(segments, is_decode))

    def _attention_launches(
        self, decode: Items[Span], prefill: Items[Span], table_starts: Items[int]
    ) -> list[tuple[Int32s, int, AttentionConfig]]:
        """What an ``AttentionLaunch`` holds, on the host: one for the decoding sequences and one for the chunks, where
        there are any."""
        model, launches = self._model, []
        group = model.num_heads // model.num_kv_heads
        if decode:
            longest = max(span.end for span in decode)
            config = decode_config(len(decode), longest, model.num_kv_heads, group, self._element_bytes)
            tiles = attention_tiles(decode, 0, table_starts[: len(decode)], config.tile_tokens(group))
            launches.append((tiles, len(decode), config))
        if prefill:
            longest = max(span.num_tokens for span in prefill)
            config = prefill_config(longest, group, model.head_dim, self._element_bytes)
            tiles = attention_tiles(prefill, len(decode), table_starts[len(decode) :], config.tile_tokens(group))
            launches.append((tiles, len(decode) + sum(span.num_tokens for span in prefill), config))
        return launches


def _batch(plan: LoraPlan | None, on_device: Iterator[torch.Tensor]) -> LoraBatch | None:
    """``plan`` with its arrays, the next ones of ``on_device``."""
    if plan is None:
        return None
    tiles, rows, records, tables = islice(on_device, len(plan.arrays))
    return LoraBatch(tiles, rows, records, tables, plan.max_rank, plan.alignment, plan.config)


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
