"""Adapters stitched out of the pool: the fast form of a mixed batch on a CPU.

In the pool an adapter's rows are scattered over blocks, and a CPU has no product that gathers its operand the way a
GPU kernel does. So each adapter in use has a *stitched* copy in the tables of a bank (libra.model.bank), where its
rows stand together. From there

* a prefill chunk, hundreds of tokens of one adapter, takes plain products with its rows;
* decoding sequences, one token each of any adapter, take two weighted sums of table rows (embedding bags) whatever the
  mixture: ``h[t] = sum over features f of x[t, f] * A[:, f]``, then ``sum over ranks r of h[t, r] * B[r]``, over the
  rows of t's own adapter. Each row in use is read once and the number of calls does not grow with the number of
  adapters, which a loop over adapters pays dearly at one token each.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F

from libra.model.bank import SLOT_RANKS, AdapterBank, GroupWeights, Place, StitchedAdapter
from libra.model.linear import padded_rows
from libra.model.lora import ActiveAdapters, ModuleGroup, Segment

Indices = np.typing.NDArray[np.int64]


class Bag:
    """Which table rows of group ``index`` each of some tokens uses, the token's adapter lying at ``places[token]``.

    A has a bag for each slot of a token's adapter: ``tokens`` are the bags' tokens (None: each its own), ``a_rows`` cut
    by ``a_ends`` their rows, one for each feature. B has a bag for each token and piece, ``b_rows`` cut by ``b_ends``;
    ``values`` says where in the sums over A the weight of each row is (None: they are in order).
    """

    def __init__(self, places: Items[Place | None], index: int, group: ModuleGroup) -> None:
        num_slots = np.array([0 if place is None else place.num_slots for place in places])
        slots = _joined([np.arange(place.start, place.start + place.num_slots) for place in places if place])
        self.tokens = _unless_in_order(np.repeat(np.arange(len(places)), num_slots), len(places))
        self.a_rows = torch.from_numpy((slots[:, None] * group.fan_in + np.arange(group.fan_in)).reshape(-1))
        self.a_ends = torch.from_numpy(np.arange(len(slots) + 1) * group.fan_in)
        columns = len(group.modules) * SLOT_RANKS
        rows, values, lengths = [], [], []
        for place, first_bag in zip(places, np.cumsum(num_slots) - num_slots, strict=True):
            for number, num_pieces in enumerate(group.pieces):
                if place is None or not place.targets[index][number]:
                    lengths += [0] * num_pieces
                    continue
                ranks = np.arange(place.rank)
                pieces = np.arange(group.num_pieces)[group.pieces_of(number)]
                first_rows = (place.start * group.num_pieces + pieces * place.num_slots) * SLOT_RANKS
                rows.append((first_rows[:, None] + ranks).reshape(-1))
                bags, ranks_of_slot = first_bag + ranks // SLOT_RANKS, ranks % SLOT_RANKS
                values.append(np.tile(bags * columns + number * SLOT_RANKS + ranks_of_slot, num_pieces))
                lengths += [place.rank] * num_pieces
        self.b_rows = torch.from_numpy(_joined(rows))
        self.b_ends = torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))))
        self.values = _unless_in_order(_joined(values), len(slots) * columns)

    def add(self, a: torch.Tensor, b: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
        """Adds the adapters' part to ``out`` [tokens, out features] from a layer's tables, for ``x`` [tokens, in
        features] without gaps. Mutates ``out``."""
        weights = x if self.tokens is None else x.index_select(0, self.tokens)
        shrunk = _weighted_sums(a, self.a_rows, self.a_ends, weights.view(-1)).view(-1)
        values = shrunk if self.values is None else shrunk.index_select(0, self.values)
        out.add_(_weighted_sums(b, self.b_rows, self.b_ends, values).view(out.shape))


def bags_for(groups: Items[ModuleGroup], places: Items[Place | None]) -> list[Bag | None]:
    """A bag for each group, None where no adapter targets any of its modules."""
    return [
        Bag(places, index, group) if any(place and any(place.targets[index]) for place in places) else None
        for index, group in enumerate(groups)
    ]


def _joined(arrays: list[Indices]) -> Indices:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)


def _unless_in_order(indices: Indices, count: int) -> torch.Tensor | None:
    """None where ``indices`` are 0, 1, 2 up to ``count``, so that selecting them would be a copy."""
    if np.array_equal(indices, np.arange(count)):
        return None
    return torch.from_numpy(indices)


def _weighted_sums(table: torch.Tensor, rows: torch.Tensor, ends: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The rows ``rows`` of ``table`` times ``weights``, summed between ``ends``: [bags, columns]. Sums are float32."""
    mode_sum = 0
    return torch.embedding_bag(table, rows, ends, False, mode_sum, False, weights, True)[0]


class StitchedAdapters(ActiveAdapters):
    """One step from the bank: bags for the first ``num_bagged`` tokens, products for the segments behind them."""

    def __init__(
        self,
        bank: AdapterBank,
        bags: Items[Bag | None],
        num_bagged: int,
        segments: Items[Segment] = (),
        entries: Mapping[str, StitchedAdapter] = MappingProxyType({}),
        outputs: "StitchedAdapters | None" = None,
    ) -> None:
        """``bags`` as from ``bags_for``; ``entries`` are the adapters of ``segments``."""
        self.outputs = outputs
        self._bank = bank
        self._bags = bags
        self._num_bagged = num_bagged
        self._segments = [(s.start, s.end, entries[s.adapter_id]) for s in segments if s.adapter_id is not None]

    def add(self, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        bag, count = self._bags[group], self._num_bagged
        if bag is not None:
            a, b = self._bank.tables[layer][group]
            # Each call counts at a few tokens: a decode step has none to cut off.
            bag.add(a, b, *((x, out) if len(x) == count else (x[:count], out[:count])))
        for start, end, adapter in self._segments:
            weights = adapter.weights[layer][group]
            if weights is not None:
                _add_products(weights, x, out, start, end)


def _add_products(weights: GroupWeights, x: torch.Tensor, out: torch.Tensor, start: int, end: int) -> None:
    """Adds an adapter's part to the rows ``start .. end`` of ``out``.

    In bfloat16 every product is oneDNN's, which wants few different numbers of rows (see ``padded_rows``): neighbours
    are computed along, from zeros.
    """
    num_rows = end - start
    padded = num_rows if x.dtype == torch.float32 else min(padded_rows(max(num_rows, 16)), x.shape[0])
    first = min(start, x.shape[0] - padded)
    shrunk, target = F.linear(x[first : first + padded], weights.a), out[first : first + padded]
    if padded > num_rows:
        shrunk[: start - first] = 0.0
        shrunk[end - first :] = 0.0
    for columns, ranks, b in weights.modules:
        target[:, columns].addmm_(shrunk[:, ranks], b)
