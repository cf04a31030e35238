"""Decode steps in memory that stays where it is: what a captured graph of the kernels reads.

    tokens | positions | key rows | attention tiles | block tables | adapters: tiles | rows | records | block tables

Every array is reserved for as many sequences as there are slots, each with the longest context and the largest adapter.
What a step does not use is padding: key rows below 0 write nothing, tiles of 0 tokens are skipped.
"""

from collections.abc import Hashable
from collections.abc import Sequence as Items

import numpy as np

from libra.kernels.attention import TILE_COLUMNS, decode_config
from libra.kernels.lora import LoraBatch
from libra.kernels.lora_plan import DECODE, DECODE_DISTINCT, RECORD_COLUMNS, LoraConfig, LoraLayouts, lora_config
from libra.kernels.lora_plan import TILE_COLUMNS as LORA_TILE_COLUMNS
from libra.kernels.paged_adapters import PagedAdapters
from libra.kernels.runtime import ceil_div
from libra.kernels.step_buffer import Int32s, StepBuffer
from libra.kernels.step_plan import AttentionLaunch, TritonStep, attention_tiles, block_tables
from libra.model.attention import Span
from libra.model.backend import AdapterUse, DecodeSlots, StepPlan
from libra.model.lora import module_groups
from libra.model.paged_kv import PagedKV
from libra.spec import ModelSpec

_TILE, _LORA_TILE, _RECORD = (TILE_COLUMNS,), (LORA_TILE_COLUMNS,), (RECORD_COLUMNS,)
_ROW_SHAPES: tuple[tuple[int, ...], ...] = ((), (), (), _TILE, (), _LORA_TILE, (), _RECORD, ())
_NOTHING: tuple[Int32s, ...] = tuple(np.zeros((0, *shape), dtype=np.int32) for shape in _ROW_SHAPES)
_FIRST_OF_ADAPTERS = 5
_PADDING = -1


class TritonSlots(DecodeSlots):
    """A step's form is the shape of its adapters' launches, None without adapters."""

    def __init__(self, kv: PagedKV, model: ModelSpec, layouts: LoraLayouts, capacity: int, max_length: int) -> None:
        self.capacity = capacity
        self._kv = kv
        self._layouts = layouts
        group, element_bytes = model.num_heads // model.num_kv_heads, kv.rows.element_size()
        # Good for any context: of a short one, the last splits have nothing to do.
        attention = decode_config(capacity, max_length, model.num_kv_heads, group, element_bytes)
        self._tile_tokens = attention.tile_tokens(group)
        table = ceil_div(max_length, kv.block_tokens)
        self._lengths = [capacity * rows for rows in (1, 1, 1, 1, table, 1, 1, 1, layouts.max_blocks)]
        # Exactly what a step takes: the buffer would move if it had to grow.
        self._buffer = StepBuffer(kv.rows.device, StepBuffer.space(self._lengths, _ROW_SHAPES))
        padding = [*_NOTHING]
        padding[2] = np.full(capacity, _PADDING, dtype=np.int32)
        views = self._buffer.put(padding, self._lengths)
        self.tokens, self.positions, key_rows, tiles, tables, *adapters = views
        lora_tiles, rows, records, lora_tables = adapters
        launches = (AttentionLaunch(tiles, capacity, attention),)
        self._plans: dict[Hashable, StepPlan] = {None: StepPlan(TritonStep(key_rows, tables, launches, None), None)}
        arena, groups = kv.rows.view(-1, model.block_elems(kv.block_tokens)), module_groups(model)
        for form in (DECODE, DECODE_DISTINCT) if layouts.max_blocks else ():
            batch = LoraBatch(
                lora_tiles, rows, records, lora_tables, layouts.max_rank, layouts.alignment, layouts.fitted(form)
            )
            step = TritonStep(key_rows, tables, launches, batch)
            self._plans[form] = StepPlan(step, PagedAdapters(batch, arena, model.num_layers, groups))

    def forms(self) -> Items[Hashable]:
        return list(self._plans)

    def plan(self, form: Hashable) -> StepPlan:
        return self._plans[form]

    def fill(self, tokens: Int32s, spans: Items[Span], use: AdapterUse | None) -> Hashable:
        """Raises ValueError for more spans than there are slots."""
        if len(spans) > self.capacity or any(span.num_tokens != 1 for span in spans):
            raise ValueError(f"{len(spans)} spans of one token at most {self.capacity}, not {spans}")
        positions = np.array([span.start for span in spans], dtype=np.int32)
        key_rows = np.full(self.capacity, _PADDING, dtype=np.int32)
        key_rows[: len(spans)] = [self._kv.key_rows(*span)[0] for span in spans]
        tables, table_starts = block_tables(spans, self._kv.block_tokens)
        tiles = attention_tiles(spans, 0, table_starts, self._tile_tokens)
        arrays = [tokens, positions, key_rows, tiles, tables]
        form, adapters = self._adapters(use)
        self._buffer.put([*arrays, *adapters], self._lengths)
        return form

    def _adapters(self, use: AdapterUse | None) -> tuple[LoraConfig | None, Items[Int32s]]:
        """The form of ``use``, and its arrays."""
        if use is None:
            return None, _NOTHING[_FIRST_OF_ADAPTERS:]
        form = lora_config(use.segments, is_decode=True)
        plan = self._layouts.plan(use.segments, use.blocks, form)
        assert plan is not None, "a step that uses adapters has tokens with adapters"
        return form, plan.arrays
