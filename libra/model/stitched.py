"""Adapters stitched out of the pool: the fast form of a mixed batch on a CPU.

In the pool an adapter's rows are scattered over blocks, and a CPU has no product that gathers its operand the way a
GPU kernel does. So each adapter in use has a *stitched* copy in the tables of a bank (libra.model.bank), where its
rows stand together. From there

* a prefill chunk, hundreds of tokens of one adapter, takes plain products with its rows;
* decoding sequences, one token each of any adapter, take two gathers whatever the mixture: a sampled product computes
  ``h[t, r] = A[r] . x[t]`` only for the rows r of t's own adapter, and a weighted embedding bag sums ``h[t, r] * B[r]``
  over them. Each row in use is read once, nothing is padded to a common rank, and the number of calls does not grow
  with the number of adapters, which a loop over adapters pays dearly at one token each.
"""

import warnings
from collections.abc import Mapping
from collections.abc import Sequence as Items

import numpy as np
import torch
import torch.nn.functional as F

from libra.model.bank import AdapterBank, GroupWeights, StitchedAdapter
from libra.model.linear import padded_rows
from libra.model.lora import ActiveAdapters, Segment


class Bag:
    """Which table rows each decoding token uses in groups whose modules have these ``pieces``.

    ``pattern`` is a sparse matrix [tokens, rows of A]: the rows of all modules of a token's adapter; a sampled product
    writes its ``values``. ``indices``, cut by ``offsets`` into one bag per token and piece, are the rows of B.
    ``spread`` gives each of them its value, where a module has several pieces.
    """

    def __init__(self, adapters: Items[StitchedAdapter | None], pieces: tuple[int, ...], capacity: int) -> None:
        num_modules, num_pieces = len(pieces), sum(pieces)
        ranks = np.array([0 if adapter is None else adapter.rank for adapter in adapters])
        self.indices = _ranges(adapters, num_pieces)
        self.offsets = torch.from_numpy(_ends(np.repeat(ranks, num_pieces)))
        token_ends = _ends(num_modules * ranks)
        self.pattern = _pattern(token_ends, _ranges(adapters, num_modules), num_modules * capacity)
        self.values = self.pattern.values()
        self.spread: torch.Tensor | None = None
        if num_modules < num_pieces:
            module_of_piece = np.repeat(np.arange(num_modules), pieces)
            starts = [start + rank * module_of_piece for start, rank in zip(token_ends, ranks, strict=False)]
            spread = [s[:, None] + np.arange(rank) for s, rank in zip(starts, ranks, strict=True)]
            self.spread = torch.from_numpy(np.concatenate([rows.reshape(-1) for rows in spread]))


def _ranges(adapters: Items[StitchedAdapter | None], rows_per_rank: int) -> torch.Tensor:
    k = rows_per_rank
    ranges = [np.arange(k * a.start, k * (a.start + a.rank)) for a in adapters if a is not None]
    return torch.from_numpy(np.concatenate(ranges))


def _ends(lengths: np.typing.NDArray[np.int64]) -> np.typing.NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(lengths)))


def _pattern(row_ends: np.typing.NDArray[np.int64], columns: torch.Tensor, num_columns: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(row_ends),
            columns,
            torch.zeros(len(columns)),
            (len(row_ends) - 1, num_columns),
            check_invariants=False,
        )


class StitchedAdapters(ActiveAdapters):
    """One step from the bank: bags for the first ``num_decode`` tokens, products for the segments behind them."""

    def __init__(
        self,
        bank: AdapterBank,
        entries: Mapping[str, StitchedAdapter],
        bags: Items[Bag] | None,
        num_decode: int,
        segments: Items[Segment],
    ) -> None:
        """``entries`` are all adapters of the step, ``bags`` one for each group, None when none of them decodes."""
        self._bank = bank
        self._bags = bags
        self._num_decode = num_decode
        for bag in bags or ():
            # Products are written over the values of the last step, which count times beta, and 0 * NaN is not 0.
            bag.values.zero_()
        self._segments = [(s.start, s.end, entries[s.adapter_id]) for s in segments if s.adapter_id is not None]
        # Adapters target the same modules in every layer, so layer 0 tells which groups are touched at all.
        groups = range(len(bank.groups))
        self._touched = [any(entry.weights[0][group] is not None for entry in entries.values()) for group in groups]

    def add(self, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        if not self._touched[group]:
            return
        if self._bags is not None:
            self._add_bag(self._bags[group], layer, group, x, out)
        for start, end, adapter in self._segments:
            weights = adapter.weights[layer][group]
            if weights is not None:
                _add_products(weights, x, out, start, end)

    def _add_bag(self, bag: Bag, layer: int, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        a_transposed, b = self._bank.tables[layer][group]
        if x.shape[0] > self._num_decode:
            x, out = x[: self._num_decode], out[: self._num_decode]
        torch.sparse.sampled_addmm(bag.pattern, x.float(), a_transposed, beta=0.0, out=bag.pattern)
        values = bag.values if bag.spread is None else bag.values.index_select(0, bag.spread)
        mode_sum = 0
        expanded = torch.embedding_bag(b, bag.indices, bag.offsets, False, mode_sum, False, values.to(b.dtype), True)
        out += expanded[0].view(out.shape)


def _add_products(weights: GroupWeights, x: torch.Tensor, out: torch.Tensor, start: int, end: int) -> None:
    """Adds an adapter's part to the rows ``start .. end`` of ``out``.

    In bfloat16 every product is oneDNN's, which wants few different numbers of rows (see ``padded_rows``): neighbours
    are computed along and left out.
    """
    num_rows = end - start
    padded = num_rows if x.dtype == torch.float32 else min(padded_rows(max(num_rows, 16)), x.shape[0])
    first = min(start, x.shape[0] - padded)
    own = slice(start - first, end - first)
    shrunk = F.linear(x[first : first + padded], weights.a)
    for columns, ranks, b in weights.pieces:
        if padded == num_rows:
            out[start:end, columns].addmm_(shrunk[:, ranks], b)
        else:
            out[start:end, columns] += torch.mm(shrunk[:, ranks], b)[own]
