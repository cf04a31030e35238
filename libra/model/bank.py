"""The bank: stitched copies of the adapters in use, in tables that gathers and products can read.

The pool stays the only owner. A copy is keyed by (adapter id, generation) and made anew once the generation moved on.

An adapter of rank r holds rank rows s .. s + r of the bank. In the tables of a group with k modules and p pieces

    A table [k * capacity, in features]   its rows k*s .. k*(s+r): r rows for each module in turn
    B table [p * capacity, piece width]   its rows p*s .. p*(s+r): r rows for each piece in turn

so that its rows of a whole group are one range. The rows of a module that it does not target are zero.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

import torch

from libra.model.lora import ModuleGroup, module_groups
from libra.model.packing import UnitLayout, gather_units
from libra.spec import ModelSpec

DEFAULT_BANK_ROWS = 1024


class Piece(NamedTuple):
    """``b`` [rank, piece width] maps the columns ``ranks`` of A x to the columns ``columns`` of the group's output."""

    columns: slice
    ranks: slice
    b: torch.Tensor


class GroupWeights(NamedTuple):
    """One adapter's part of a group in one layer: ``a`` [modules * rank, in features], and B piece by piece."""

    a: torch.Tensor
    pieces: list[Piece]


@dataclass(eq=False)
class StitchedAdapter:
    """A copy in the bank: rank rows ``start .. start + rank``; ``weights[layer][group]``, None where not targeted."""

    generation: int
    start: int
    rank: int
    weights: list[list[GroupWeights | None]]
    last_use: int = 0


class AdapterBank:
    """Stitched copies of up to ``capacity`` ranks in all; memory is touched only as far as used.

    It grows when one step needs more. ``tables[layer][group]`` are A transposed and B.
    """

    def __init__(
        self,
        model: ModelSpec,
        layouts: Mapping[str, UnitLayout],
        dtype: torch.dtype,
        capacity: int = DEFAULT_BANK_ROWS,
    ) -> None:
        self.groups = module_groups(model)
        self._num_layers = model.num_layers
        self._layouts = layouts
        self._dtype = dtype
        self._step = 0
        self._entries: dict[str, StitchedAdapter] = {}
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        """Makes empty tables, forgetting every copy."""
        self.capacity = capacity
        self._entries.clear()
        self.tables = [[self._empty_tables(group) for group in self.groups] for _ in range(self._num_layers)]

    def _empty_tables(self, group: ModuleGroup) -> tuple[torch.Tensor, torch.Tensor]:
        # The sampled product exists for float32 alone.
        a = torch.empty(len(group.modules) * self.capacity, group.fan_in)
        return a.T, torch.empty(group.num_pieces * self.capacity, group.piece_width, dtype=self._dtype)

    def stitch(self, hbm: torch.Tensor, wanted: Mapping[str, tuple[int, Items[int]]]) -> dict[str, StitchedAdapter]:
        """Copies of all ``wanted`` adapters (id -> generation and blocks), reusing those that are still good."""
        self._step += 1
        for adapter_id, (generation, _) in wanted.items():
            entry = self._entries.get(adapter_id)
            if entry is not None and entry.generation != generation:
                del self._entries[adapter_id]
            elif entry is not None:
                entry.last_use = self._step
        for adapter_id, (generation, blocks) in wanted.items():
            if adapter_id not in self._entries:
                start = self._room(self._layouts[adapter_id].spec.rank)
                if start is None:
                    self._allocate(max(2 * self.capacity, 2 * self._ranks(wanted)))
                    return self.stitch(hbm, wanted)
                self._entries[adapter_id] = self._copy(hbm, adapter_id, generation, blocks, start)
        return {adapter_id: self._entries[adapter_id] for adapter_id in wanted}

    def forget(self, adapter_id: str) -> None:
        """Drops the copy of ``adapter_id``, if any."""
        self._entries.pop(adapter_id, None)

    def _ranks(self, adapter_ids: Iterable[str]) -> int:
        return sum(self._layouts[adapter_id].spec.rank for adapter_id in adapter_ids)

    def _room(self, rank: int) -> int | None:
        """The first free range of ``rank`` rows, dropping copies not used in this step, oldest first; else None."""
        while True:
            end = 0
            for entry in sorted(self._entries.values(), key=lambda entry: entry.start):
                if entry.start - end >= rank:
                    return end
                end = entry.start + entry.rank
            if self.capacity - end >= rank:
                return end
            idle = [name for name, entry in self._entries.items() if entry.last_use < self._step]
            if not idle:
                return None
            del self._entries[min(idle, key=lambda name: self._entries[name].last_use)]

    def _copy(
        self, hbm: torch.Tensor, adapter_id: str, generation: int, blocks: Items[int], start: int
    ) -> StitchedAdapter:
        layout = self._layouts[adapter_id]
        units = gather_units(hbm, torch.tensor(blocks), layout)
        weights = [
            [self._copy_group(units[:, layer], layout, layer, group, start) for group in range(len(self.groups))]
            for layer in range(self._num_layers)
        ]
        return StitchedAdapter(generation, start, layout.spec.rank, weights, self._step)

    def _copy_group(
        self, units: torch.Tensor, layout: UnitLayout, layer: int, index: int, start: int
    ) -> GroupWeights | None:
        """Fills the adapter's rows of one group from ``units`` [rank, unit elements]."""
        group, rank = self.groups[index], layout.spec.rank
        a_transposed, b_table = self.tables[layer][index]
        a = a_transposed.T[_table_rows(start, len(group.modules), rank)].view(len(group.modules), rank, -1)
        b = b_table[_table_rows(start, group.num_pieces, rank)].view(group.num_pieces, rank, -1)
        pieces: list[Piece] = []
        for number, (module, count) in enumerate(zip(group.modules, group.pieces, strict=True)):
            first = sum(group.pieces[:number])
            if module in layout.offsets:
                a[number] = units[:, layout.a_slice(module)]
                ranks, width = slice(number * rank, (number + 1) * rank), group.piece_width
                b[first : first + count] = units[:, layout.b_slice(module)].view(rank, count, width).transpose(0, 1)
                pieces += [Piece(slice(p * width, (p + 1) * width), ranks, b[p]) for p in range(first, first + count)]
            else:
                a[number] = b[first : first + count] = 0.0
        return GroupWeights(a.flatten(0, 1).to(self._dtype), pieces) if pieces else None


def _table_rows(start: int, rows_per_rank: int, rank: int) -> slice:
    """The table rows of rank rows ``start .. start + rank``."""
    return slice(rows_per_rank * start, rows_per_rank * (start + rank))
