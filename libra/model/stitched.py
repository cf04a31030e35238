"""Adapters stitched out of the pool: the fast form of a mixed batch on a CPU.

In the pool an adapter's rows are scattered over blocks, and a CPU has no product that gathers its operand the way a
GPU kernel does. So each adapter that is in use has a *stitched* copy in the tables of a bank, one pair of tables per
layer and module group, where its rows stand together. From there

* a prefill chunk, hundreds of tokens of one adapter, takes plain products with its rows;
* decoding sequences, one token each of any adapter, take two gathers whatever the mixture: a sampled product computes
  ``h[t, r] = A[r] . x[t]`` only for the rows r of t's own adapter, and a weighted embedding bag sums ``h[t, r] * B[r]``
  over them. Each row in use is read once, nothing is padded to a common rank, and the number of calls does not grow
  with the number of adapters, which a loop over adapters pays dearly at one token each.

The pool stays the only owner: a copy is keyed by (adapter id, generation) and made anew when the generation moved on.
"""

import warnings
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from libra.model.lora import GROUPS, ActiveAdapters, Segment
from libra.model.packing import UnitLayout, gather_units
from libra.spec import ModelSpec

DEFAULT_BANK_ROWS = 1024


@dataclass(frozen=True)
class GroupWeights:
    """One adapter's part of a group in one layer: ``a`` [modules * rank, in], ``b`` [modules, rank, out]."""

    a: torch.Tensor
    b: torch.Tensor


@dataclass(eq=False)
class StitchedAdapter:
    """A copy in the bank: rank rows ``start .. start + rank``; ``weights[layer][group]``, None where not targeted."""

    generation: int
    start: int
    rank: int
    weights: list[list[GroupWeights | None]]
    last_use: int = 0


class AdapterBank:
    """Tables that hold the stitched copies, ``capacity`` rank rows in all; memory is touched only as far as used.

    In the tables of a group of k modules an adapter that starts at rank row s owns rows k*s .. k*(s + rank), module by
    module, so that its rows of the whole group are one range.
    """

    def __init__(
        self,
        model: ModelSpec,
        layouts: Mapping[str, UnitLayout],
        dtype: torch.dtype,
        capacity: int = DEFAULT_BANK_ROWS,
    ) -> None:
        self._model = model
        self._layouts = layouts
        self._dtype = dtype
        self._step = 0
        self._entries: dict[str, StitchedAdapter] = {}
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        """Makes empty tables, forgetting every copy."""
        self.capacity = capacity
        self._entries.clear()
        shapes = [(len(group), *self._model.module_shape(group[0])) for group in GROUPS]
        layers = range(self._model.num_layers)
        # The sampled product exists for float32 alone.
        self.a = [[torch.empty(k * capacity, fan_in) for k, fan_in, _ in shapes] for _ in layers]
        self.b = [[torch.empty(k * capacity, out, dtype=self._dtype) for k, _, out in shapes] for _ in layers]

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
            [self._copy_group(units[:, layer], layout, layer, group, start) for group in range(len(GROUPS))]
            for layer in range(layout.num_layers)
        ]
        return StitchedAdapter(generation, start, layout.spec.rank, weights, self._step)

    def _copy_group(
        self, units: torch.Tensor, layout: UnitLayout, layer: int, group: int, start: int
    ) -> GroupWeights | None:
        """Fills the adapter's rows of one group; a module it does not target gets zeros."""
        modules, rank = GROUPS[group], layout.spec.rank
        rows = slice(len(modules) * start, len(modules) * (start + rank))
        a = self.a[layer][group][rows].view(len(modules), rank, -1)
        b = self.b[layer][group][rows].view(len(modules), rank, -1)
        for index, module in enumerate(modules):
            targeted = module in layout.offsets
            a[index] = units[:, layout.a_slice(module)] if targeted else 0.0
            b[index] = units[:, layout.b_slice(module)] if targeted else 0.0
        if not any(module in layout.offsets for module in modules):
            return None
        return GroupWeights(a.flatten(0, 1).to(self._dtype), b)


class Bags:
    """Which table rows each decoding token uses: index tensors per number of modules in a group.

    ``offsets[k]`` cuts ``indices[k]`` into one bag per token and module; ``patterns[k]`` is the same cut per token as
    a sparse matrix [tokens, table rows].
    """

    def __init__(self, adapters: Items[StitchedAdapter | None], capacity: int) -> None:
        self.indices: dict[int, torch.Tensor] = {}
        self.offsets: dict[int, torch.Tensor] = {}
        self.patterns: dict[int, torch.Tensor] = {}
        for k in sorted({len(group) for group in GROUPS}):
            ranges = [np.arange(k * a.start, k * (a.start + a.rank)) for a in adapters if a is not None]
            ranks = np.array([0 if a is None else a.rank for a in adapters])
            offsets = np.concatenate(([0], np.cumsum(np.repeat(ranks, k))))
            self.indices[k] = torch.from_numpy(np.concatenate(ranges))
            self.offsets[k] = torch.from_numpy(offsets)
            self.patterns[k] = _pattern(self.indices[k], self.offsets[k][::k].clone(), k * capacity)


def _pattern(columns: torch.Tensor, row_offsets: torch.Tensor, num_columns: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(
            row_offsets, columns, torch.zeros(len(columns)), (len(row_offsets) - 1, num_columns), check_invariants=False
        )


class StitchedAdapters(ActiveAdapters):
    """One step from the bank: bags for the first ``num_decode`` tokens, products for the segments behind them."""

    def __init__(
        self,
        bank: AdapterBank,
        entries: Mapping[str, StitchedAdapter],
        bags: Bags | None,
        num_decode: int,
        segments: Items[Segment],
    ) -> None:
        self._bank = bank
        self._bags = bags
        self._num_decode = num_decode
        self._segments = [(s.start, s.end, entries[s.adapter_id]) for s in segments if s.adapter_id is not None]
        groups = range(len(GROUPS))
        # Adapters target the same modules in every layer, so layer 0 tells which groups are touched at all.
        self._touched = [any(entry.weights[0][group] is not None for entry in entries.values()) for group in groups]

    def add(self, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        if not self._touched[group]:
            return
        if self._bags is not None:
            self._add_bags(self._bags, layer, group, x, out)
        for start, end, adapter in self._segments:
            weights = adapter.weights[layer][group]
            if weights is not None:
                shrunk = F.linear(x[start:end], weights.a)
                width, rank = weights.b.shape[2], adapter.rank
                for index, b in enumerate(weights.b):
                    columns = slice(index * width, (index + 1) * width)
                    out[start:end, columns].addmm_(shrunk[:, index * rank : (index + 1) * rank], b)

    def _add_bags(self, bags: Bags, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        k, count = len(GROUPS[group]), self._num_decode
        a, b = self._bank.a[layer][group], self._bank.b[layer][group]
        shrunk = torch.sparse.sampled_addmm(bags.patterns[k], x[:count].float(), a.T, beta=0.0).values()
        expanded = F.embedding_bag(
            bags.indices[k],
            b,
            bags.offsets[k],
            mode="sum",
            per_sample_weights=shrunk.to(b.dtype),
            include_last_offset=True,
        )
        out[:count] += expanded.view(count, -1)
