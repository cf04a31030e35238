"""The bank: stitched copies of the adapters in use, in tables that gathers and products can read.

The pool stays the only owner. A copy is keyed by (adapter id, generation) and made anew once the generation moved on.

An adapter of rank r takes n = ceil(r / 16) *slots* s .. s + n of the bank, 16 ranks each. In the tables of a group with
k modules and p pieces

    A table [slots * in features, 16 * k]    its rows: n times A transposed, for each feature 16 ranks of each module
    B table [slots * 16 * p, piece width]    its rows: for each piece n * 16 rows, one for each rank

Ranks that fill no slot, and modules that the adapter does not target, hold whatever was there before: nobody reads it.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

import torch

from libra.model.lora import module_groups
from libra.model.packing import UnitLayout, gather_units
from libra.spec import ModelSpec

SLOT_RANKS = 16
DEFAULT_BANK_SLOTS = 64


class ModuleWeights(NamedTuple):
    """``b`` [rank, out features] maps the columns ``ranks`` of A x to the columns ``columns`` of the group's output."""

    columns: slice
    ranks: slice
    b: torch.Tensor


class GroupWeights(NamedTuple):
    """One adapter's part of a group in one layer, for products: ``a`` [targeted modules * rank, in features], and B of
    each targeted module."""

    a: torch.Tensor
    modules: list[ModuleWeights]


class Place(NamedTuple):
    """Where a copy lies: slots ``start`` and following, for ``rank`` ranks. ``targets[group]`` says which of the
    group's modules the adapter targets."""

    start: int
    rank: int
    targets: tuple[tuple[bool, ...], ...]

    @property
    def num_slots(self) -> int:
        return slots_for(self.rank)


@dataclass(eq=False)
class StitchedAdapter:
    """A copy in the bank. ``weights[layer][group]``, None where not targeted."""

    generation: int
    place: Place
    weights: list[list[GroupWeights | None]]
    last_use: int = 0


def slots_for(rank: int) -> int:
    return -(-rank // SLOT_RANKS)


class AdapterBank:
    """Stitched copies in up to ``capacity`` slots in all; memory is touched only as far as used.

    It grows when one step needs more. ``tables[layer][group]`` are those of A and of B.
    """

    def __init__(
        self,
        model: ModelSpec,
        layouts: Mapping[str, UnitLayout],
        dtype: torch.dtype,
        capacity: int = DEFAULT_BANK_SLOTS,
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
        self._a = [self._empty(capacity * group.fan_in, len(group.modules) * SLOT_RANKS) for group in self.groups]
        self._b = [self._empty(capacity * SLOT_RANKS * group.num_pieces, group.piece_width) for group in self.groups]
        layers = range(self._num_layers)
        self.tables = [[(a[layer], b[layer]) for a, b in zip(self._a, self._b, strict=True)] for layer in layers]

    def _empty(self, num_rows: int, width: int) -> torch.Tensor:
        return torch.empty(self._num_layers, num_rows, width, dtype=self._dtype)

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
                start = self._room(slots_for(self._layouts[adapter_id].spec.rank))
                if start is None:
                    self._allocate(max(2 * self.capacity, 2 * self._slots(wanted)))
                    return self.stitch(hbm, wanted)
                self._entries[adapter_id] = self._copy(hbm, adapter_id, generation, blocks, start)
        return {adapter_id: self._entries[adapter_id] for adapter_id in wanted}

    def forget(self, adapter_id: str) -> None:
        """Drops the copy of ``adapter_id``, if any."""
        self._entries.pop(adapter_id, None)

    def _slots(self, adapter_ids: Iterable[str]) -> int:
        return sum(slots_for(self._layouts[adapter_id].spec.rank) for adapter_id in adapter_ids)

    def _room(self, num_slots: int) -> int | None:
        """The first free range of ``num_slots``, dropping copies not used in this step, oldest first; else None."""
        while True:
            end = 0
            for place in sorted(entry.place for entry in self._entries.values()):
                if place.start - end >= num_slots:
                    return end
                end = place.start + place.num_slots
            if self.capacity - end >= num_slots:
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
        by_group = [self._copy_group(units, layout, index, start) for index in range(len(self.groups))]
        targets = tuple(tuple(module in layout.offsets for module in group.modules) for group in self.groups)
        weights = [list(of_layer) for of_layer in zip(*by_group, strict=True)]
        return StitchedAdapter(generation, Place(start, layout.spec.rank, targets), weights, self._step)

    def _copy_group(
        self, units: torch.Tensor, layout: UnitLayout, index: int, start: int
    ) -> Items[GroupWeights | None]:
        """Fills the adapter's rows of one group, all layers at once, from ``units`` [rank, layers, unit elements];
        returns the group's weights layer by layer."""
        group, rank = self.groups[index], layout.spec.rank
        targeted = [number for number, module in enumerate(group.modules) if module in layout.offsets]
        if not targeted:
            return [None] * self._num_layers
        a_slots, b_pieces = self._slots_of(index, start, rank)
        for number in targeted:
            module = group.modules[number]
            transposed = units[..., layout.a_slice(module)].permute(1, 2, 0)
            for slot in range(slots_for(rank)):
                of_slot = transposed[..., slot * SLOT_RANKS : (slot + 1) * SLOT_RANKS]
                a_slots[:, slot, :, number, : of_slot.shape[2]] = of_slot
            pieces = units[..., layout.b_slice(module)].view(rank, self._num_layers, -1, group.piece_width)
            b_pieces[:, group.pieces_of(number)] = pieces.permute(1, 2, 0, 3)
        a = torch.cat([units[..., layout.a_slice(group.modules[number])] for number in targeted])
        b = [units[..., layout.b_slice(group.modules[number])].transpose(0, 1).contiguous() for number in targeted]
        columns = [group.columns(number) for number in targeted]
        ranks = [slice(place * rank, (place + 1) * rank) for place in range(len(targeted))]
        return [
            GroupWeights(rows, list(map(ModuleWeights, columns, ranks, of_layer)))
            for rows, *of_layer in zip(a.transpose(0, 1).contiguous(), *b, strict=True)
        ]

    def _slots_of(self, index: int, start: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An adapter's part of a group's tables in all layers: A [layers, slots, in features, modules, 16] and
        B [layers, pieces, rank, piece width]."""
        group, layers, slots = self.groups[index], self._num_layers, slice(start, start + slots_for(rank))
        a = self._a[index].view(layers, self.capacity, group.fan_in, len(group.modules), SLOT_RANKS)
        b = self._b[index].view(layers, self.capacity, -1, group.piece_width)[:, slots].flatten(1, 2)
        return a[:, slots], b.view(layers, group.num_pieces, -1, group.piece_width)[:, :, :rank]
