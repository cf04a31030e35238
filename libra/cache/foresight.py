"""What a trace will ask of the cache: which adapters and KV blocks, by which requests, and when."""

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from libra.request import Request
from libra.tokens import adapter_seed, extend_block_hashes, prompt_tokens, replayed_output

Integers = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint64]
UNKNOWN = -1


class Lists(NamedTuple):
    """A list of cells per request: those of row r are ``cells[first[r] : first[r + 1]]``."""

    first: Integers
    cells: Integers

    @property
    def owner(self) -> Integers:
        """The row of each of ``cells``."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def of(self, row: int) -> Integers:
        return self.cells[self.first[row] : self.first[row + 1]]

    def keep(self, rows: npt.NDArray[np.bool_]) -> "Lists":
        """The lists of the rows in the mask ``rows``."""
        counts = np.diff(self.first)
        return Lists(_offsets(counts[rows]), self.cells[np.repeat(rows, counts)])


class UseTimes(NamedTuple):
    """When each cell is used, sorted: cell c at ``times[first[c] : first[c + 1]]``, in seconds."""

    first: Integers
    times: Times


@dataclass(frozen=True)
class Foresight:
    """A trace as the cache will see it. Rows are requests by ascending id, cells are adapters and KV blocks.

    ``labels`` names the cells, ascending: adapters by ``adapter_seed``, blocks by their chained hash, both as in the
    tree. ``uses`` are the cells a request needs before it can compute its first token: its adapter, and the full blocks
    of its prompt that it can find instead of computing them. ``makes`` are the further full blocks that it leaves when
    it finishes. ``arrival_s`` of a request that waits for others is the earliest it can arrive: when they finish is not
    known before the run.
    """

    request_ids: Integers
    arrival_s: Times
    labels: Labels
    is_adapter: npt.NDArray[np.bool_]
    uses: Lists
    makes: Lists

    @classmethod
    def of(cls, requests: Sequence[Request], block_tokens: int, vocab_size: int) -> "Foresight":
        """Reads ``requests`` as an engine with these settings replays them."""
        requests = sorted(requests, key=lambda request: request.id)
        labels, num_uses, num_makes = array("Q"), [], []
        for request in requests:
            if request.adapter is not None:
                labels.append(adapter_seed(request.adapter))
            blocks = _block_labels(request, block_tokens, vocab_size)
            labels.extend(blocks)
            reusable = max(request.num_prompt_tokens - 1, 0) // block_tokens
            num_uses.append(reusable + (request.adapter is not None))
            num_makes.append(len(blocks) - reusable)
        distinct, cells = np.unique(np.array(labels, dtype=np.uint64), return_inverse=True)
        adapters = {adapter_seed(request.adapter) for request in requests if request.adapter is not None}
        uses, makes = _split(cells.astype(np.int64), np.array(num_uses, np.int64), np.array(num_makes, np.int64))
        return cls(
            request_ids=np.array([request.id for request in requests], dtype=np.int64),
            arrival_s=np.array([request.arrival_s for request in requests], dtype=np.float64),
            labels=distinct,
            is_adapter=np.isin(distinct, np.array(sorted(adapters), dtype=np.uint64)),
            uses=uses,
            makes=makes,
        )

    @property
    def num_cells(self) -> int:
        return len(self.labels)

    def rows(self, request_ids: npt.ArrayLike) -> Integers:
        """The rows of these requests; all of them are in the trace."""
        rows: Integers = np.searchsorted(self.request_ids, request_ids).astype(np.int64)
        return rows

    def uses_of(self, request_id: int) -> Integers:
        """The cells that a request needs; none where the trace does not have it."""
        row = int(np.searchsorted(self.request_ids, request_id))
        is_known = row < len(self.request_ids) and self.request_ids[row] == request_id
        return self.uses.of(row) if is_known else self.uses.cells[:0]

    def cells(self, labels: Sequence[int]) -> Integers:
        """The cells with these labels, UNKNOWN for a label that the trace never uses."""
        wanted = np.array(labels, dtype=np.uint64)
        if not self.num_cells:
            return np.full(len(wanted), UNKNOWN, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.labels, wanted), self.num_cells - 1)
        return np.where(self.labels[place] == wanted, place, UNKNOWN).astype(np.int64)

    @cached_property
    def use_times(self) -> UseTimes:
        """When requests that use each cell arrive. To make a block is no use of it."""
        times = self.arrival_s[self.uses.owner]
        order = np.lexsort((times, self.uses.cells))
        return UseTimes(_offsets(np.bincount(self.uses.cells, minlength=self.num_cells)), times[order])

    def without(self, request_ids: Collection[int]) -> "Foresight":
        """The same trace less some requests: such as a cache refuses for their size."""
        if not request_ids:
            return self
        rows = ~np.isin(self.request_ids, list(request_ids))
        return replace(
            self,
            request_ids=self.request_ids[rows],
            arrival_s=self.arrival_s[rows],
            uses=self.uses.keep(rows),
            makes=self.makes.keep(rows),
        )


def _block_labels(request: Request, block_tokens: int, vocab_size: int) -> list[int]:
    """Labels of all full blocks of prompt and answer. The last token is never fed back, so its block is not full."""
    prompt, answer = prompt_tokens(request, vocab_size), replayed_output(request, vocab_size)
    labels: list[int] = []
    num_blocks = max(len(prompt) + len(answer) - 1, 0) // block_tokens
    seed = adapter_seed(request.adapter, request.cache_salt)
    extend_block_hashes(labels, np.concatenate([prompt, answer]), block_tokens, num_blocks, seed)
    return labels


def _split(cells: Integers, num_uses: Integers, num_makes: Integers) -> tuple[Lists, Lists]:
    """Cells that come request by request, first those it uses, then those it makes, as two lists of lists."""
    runs = np.stack([num_uses, num_makes], axis=1).reshape(-1)
    is_use = np.repeat(np.tile([True, False], len(num_uses)), runs)
    return Lists(_offsets(num_uses), cells[is_use]), Lists(_offsets(num_makes), cells[~is_use])


def _offsets(counts: Integers) -> Integers:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
