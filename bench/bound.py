"""A lower bound on miss bytes: what no cache of this size could have avoided. The proof is in docs/bounds.md.

Miss bytes are all bytes that a run moves into HBM or computes for want of a copy: adapters and KV loaded on demand,
those prefetched and then used, and full blocks of known tokens that no tier holds.

The bound is for one run: it takes from it the order in which requests were first admitted, and when those that make a
block have finished. Everything else is relaxed: HBM is one pool of single bytes without blocks, slots or pins; loads
take no time; nothing depends on anything; running requests hold no room but for what they need at their admission.
"""

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from libra.cache.foresight import Foresight, Integers, Lists
from libra.engine.record import RequestRecord

Floats = npt.NDArray[np.float64]


class MissBound(NamedTuple):
    """``compulsory_bytes`` are the part of ``num_bytes`` that a cache of any size misses: first uses of what nobody
    made before."""

    num_bytes: float
    compulsory_bytes: float


class _Uses(NamedTuple):
    """Which cell is needed when, sorted by cell and then time; ``moment`` counts admissions of equal time as one."""

    cell: Integers
    moment: Integers


class _Makers(NamedTuple):
    """Which cell is made by a request that runs from ``start_s`` to ``end_s``, infinite where it never ended."""

    cell: Integers
    start_s: Floats
    end_s: Floats


def cell_bytes(future: Foresight, adapter_bytes: Mapping[int, int], block_bytes: int) -> Floats:
    """Bytes of each cell. ``adapter_bytes``: label of an adapter -> bytes of its weights."""
    sizes = np.full(future.num_cells, float(block_bytes))
    adapters = np.flatnonzero(future.is_adapter)
    sizes[adapters] = [adapter_bytes[label] for label in future.labels[adapters].tolist()]
    return sizes


def miss_bound(future: Foresight, records: Sequence[RequestRecord], sizes: Floats, capacity_bytes: float) -> MissBound:
    """The bound for the run that left ``records`` of the trace ``future``. ``sizes``: bytes of each cell."""
    admitted = [record for record in records if record.admitted_s is not None]
    if not admitted:
        return MissBound(0.0, 0.0)
    rows = future.rows([record.id for record in admitted])
    start_s = np.array([record.admitted_s for record in admitted], dtype=np.float64)
    end_s = np.array([np.inf if record.finish_s is None else record.finish_s for record in admitted])
    moments_s, moment = np.unique(start_s, return_inverse=True)
    uses = _uses(future.uses, rows, moment, len(moments_s))
    owner, cells = _gather(future.makes, rows)
    first, is_compulsory = _first_moments(uses, _Makers(cells, start_s[owner], end_s[owner]), moments_s)
    bytes_of_use = sizes[uses.cell]
    needed = np.bincount(uses.moment, weights=bytes_of_use, minlength=len(moments_s)).astype(np.float64)
    kept = ~is_compulsory & (first < uses.moment)
    room = capacity_bytes - needed
    dropped = _least_dropped(first[kept], uses.moment[kept], bytes_of_use[kept], room)
    compulsory = float(bytes_of_use[is_compulsory].sum())
    return MissBound(compulsory + dropped, compulsory)


def _gather(lists: Lists, rows: Integers) -> tuple[Integers, Integers]:
    """(position in ``rows``, cell) of every entry of the lists of ``rows``."""
    counts = lists.first[rows + 1] - lists.first[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, lists.cells[lists.first[rows][owner] + within]


def _uses(lists: Lists, rows: Integers, moment: Integers, num_moments: int) -> _Uses:
    owner, cells = _gather(lists, rows)
    keys = np.unique(cells * num_moments + moment[owner])
    return _Uses(keys // num_moments, keys % num_moments)


def _first_moments(uses: _Uses, makers: _Makers, moments_s: Floats) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """For each use, the first moment from which on its cell must stay in HBM if the use is to be no miss, and whether
    it is a miss whatever stays.

    A cell is in HBM at the moment of a use, and at the latest when a request that makes it ends. While such a request
    runs, nobody knows whether it has made the cell: it must stay from the use on, which is no moment at all.
    """
    first = np.zeros(len(uses.cell), dtype=np.int64)
    again = np.flatnonzero(uses.cell[1:] == uses.cell[:-1]) + 1
    first[again] = uses.moment[again - 1] + 1
    is_compulsory = np.ones(len(first), dtype=np.bool_)
    is_compulsory[again] = False
    # (cell, time) as one number that sorts like the pair.
    times, rank = np.unique(np.concatenate([moments_s, makers.start_s, makers.end_s]), return_inverse=True)
    num_moments, num_makers = len(moments_s), len(makers.cell)
    cell_key = uses.cell * len(times)
    key = cell_key + rank[uses.moment]
    starts = np.sort(makers.cell * len(times) + rank[num_moments : num_moments + num_makers])
    ends = np.sort(makers.cell * len(times) + rank[num_moments + num_makers :])
    num_started = np.searchsorted(starts, key, "right") - np.searchsorted(starts, cell_key)
    last_end = np.searchsorted(ends, key)
    num_ended = last_end - np.searchsorted(ends, cell_key)
    made = num_ended > 0
    ended_s = times[ends[last_end[made] - 1] - cell_key[made]]
    first[made] = np.maximum(first[made], np.searchsorted(moments_s, ended_s, "right"))
    being_made = num_started > num_ended
    first[being_made] = uses.moment[being_made]
    is_compulsory[made | being_made] = False
    return first, is_compulsory


def _least_dropped(first: Integers, use: Integers, num_bytes: Floats, room: Floats) -> float:
    """The fewest bytes that must be dropped so that at each moment h those kept with first <= h < use fit ``room[h]``.

    At a moment with too many bytes, those used last go (Belady; for bytes as jobs on a line, Faigle and Nawijn 1995).
    """
    intervals, number = np.unique(first * len(room) + use, return_inverse=True)
    sizes = np.bincount(number, weights=num_bytes, minlength=len(intervals)).tolist()
    firsts, ends = (intervals // len(room)).tolist(), (intervals % len(room)).tolist()
    ending = np.zeros(len(room) + 1)
    latest: list[tuple[int, int]] = []  # minus the moment of use, interval
    held = dropped = 0.0
    following = 0
    for moment, limit in enumerate(np.maximum(room, 0.0).tolist()):
        held -= ending[moment]
        while following < len(firsts) and firsts[following] == moment:
            heapq.heappush(latest, (-ends[following], following))
            ending[ends[following]] += sizes[following]
            held += sizes[following]
            following += 1
        while held > limit:
            end, interval = -latest[0][0], latest[0][1]
            gone = min(sizes[interval], held - limit)
            sizes[interval] -= gone
            ending[end] -= gone
            held -= gone
            dropped += gone
            if sizes[interval] <= 0.0:
                heapq.heappop(latest)
    return dropped
