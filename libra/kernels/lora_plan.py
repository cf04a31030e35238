"""What the LoRA kernels must know of a step's adapters: plain numpy, made on the host once per batch.

    tile     | record | first slot | slots | 0 |                       tokens of one adapter, sorted next to each other
    record   | rank | units per block | unit elements | first table entry | start of A of each of 7 modules | 0 |

Starts count elements from the beginning of a unit, -1 where the adapter does not target the module; B follows A.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from libra.kernels.runtime import power_of_two
from libra.model.lora import Segment
from libra.model.packing import UnitLayout
from libra.spec import TARGET_MODULES

Int32s = npt.NDArray[np.int32]

TILE_COLUMNS = 4
RECORD_RANK, RECORD_UNITS_PER_BLOCK, RECORD_UNIT_ELEMS, RECORD_TABLE, RECORD_OFFSETS = range(5)
NUM_MODULES = len(TARGET_MODULES)
RECORD_COLUMNS = RECORD_OFFSETS + NUM_MODULES + 1

_WIDEST_LOAD_BYTES = 16
_MIN_BLOCK_RANK = 16


@dataclass(frozen=True)
class LoraConfig:
    """Shape of the launches.

    ``block_tokens``: tokens of a tile; 1 computes on vectors, 16 and more on matrix units. ``splits``: programs that
    share the input features of a shrink. Ranks go in blocks of ``block_rank`` (shrink, a program each) and
    ``block_expand_rank`` (expand, one after another), features and columns in blocks of the others. All blocks are
    powers of two, those of ranks at least 16.
    """

    block_tokens: int
    splits: int
    block_rank: int
    block_features: int
    block_expand_rank: int
    block_columns: int
    num_warps: int
    num_stages: int


# Decode reads each adapter for a token or few, so what counts is how many bytes are in flight: many small programs.
DECODE = LoraConfig(16, 8, 16, 256, 64, 128, num_warps=4, num_stages=3)
# Where hardly two tokens share an adapter, matrix units would multiply padding.
DECODE_DISTINCT = LoraConfig(1, 8, 16, 256, 16, 256, num_warps=4, num_stages=3)
# Chunks of prompts: the weights are read for many tokens, x and out weigh more than they.
SHORT_PREFILL = LoraConfig(32, 4, 16, 128, 64, 128, num_warps=4, num_stages=3)
# These tiles are tall enough for wgmma. ptxas before 13.3 miscompiles it in a pipelined loop when its first operand
# comes from registers (triton-lang/triton #9433), as one that was just cast does. So: one split, its sums stored in the
# dtype and multiplied as they were loaded.
LONG_PREFILL = LoraConfig(64, 1, 32, 64, 64, 128, num_warps=4, num_stages=3)
_LONG_PREFILL_TOKENS = 1024


def lora_config(segments: Items[Segment], is_decode: bool) -> LoraConfig:
    """The shape for a step of these segments, ``is_decode`` where each sequence has one token."""
    used = [segment for segment in segments if segment.adapter_id is not None]
    num_tokens = sum(segment.end - segment.start for segment in used)
    if is_decode:
        num_adapters = len({segment.adapter_id for segment in used})
        return DECODE_DISTINCT if num_tokens == num_adapters else DECODE
    return LONG_PREFILL if num_tokens >= _LONG_PREFILL_TOKENS else SHORT_PREFILL


class LoraLayouts:
    """Every adapter's layout in the form of records, made once. ``max_blocks``: of the largest adapter, 0 without any;
    ``max_rank`` bounds every rank; ``alignment``: see ``libra.kernels.lora.LoraBatch``."""

    def __init__(self, layouts: Mapping[str, UnitLayout], element_bytes: int) -> None:
        self._records = {name: _record(layout) for name, layout in layouts.items()}
        self.max_blocks = max((layout.num_blocks for layout in layouts.values()), default=0)
        self.max_rank = power_of_two(max([_MIN_BLOCK_RANK, *(layout.spec.rank for layout in layouts.values())]))
        starts = [start for layout in layouts.values() for start in _starts(layout)]
        widest = _WIDEST_LOAD_BYTES // element_bytes
        # The lowest set bit of the or is the largest power of two that divides all.
        common = int(np.bitwise_or.reduce([widest, *starts]))
        self.alignment = common & -common

    def plan(self, segments: Items[Segment], blocks: Mapping[str, Items[int]], config: LoraConfig) -> "LoraPlan | None":
        """The step whose tokens are those of ``segments``; ``blocks[adapter_id]`` its block table. None when no token
        has an adapter."""
        used = sorted({segment.adapter_id for segment in segments if segment.adapter_id is not None})
        if not used:
            return None
        number = {name: index for index, name in enumerate(used)}
        owners = np.array([-1 if s.adapter_id is None else number[s.adapter_id] for s in segments])
        starts, ends = np.array([(s.start, s.end) for s in segments]).T
        lengths = ends - starts
        firsts = np.cumsum(lengths) - lengths
        rows = np.arange(lengths.sum()) + np.repeat(starts - firsts, lengths)
        of_row = np.repeat(owners, lengths)
        order = np.argsort(of_row, kind="stable")
        slots = rows[order][np.count_nonzero(of_row < 0) :]
        counts = np.bincount(of_row[of_row >= 0], minlength=len(used))
        records = np.stack([self._records[name] for name in used])
        sizes = [len(blocks[name]) for name in used]
        records[:, RECORD_TABLE] = np.cumsum(sizes) - sizes
        tables = np.concatenate([np.asarray(blocks[name], dtype=np.int32) for name in used])
        tiles = _tiles(counts, config.block_tokens)
        fitted = self.fitted(config)
        return LoraPlan(tiles, slots.astype(np.int32), records, tables, self.max_rank, self.alignment, fitted)

    def fitted(self, config: LoraConfig) -> LoraConfig:
        """``config`` with blocks of ranks no larger than the largest rank needs."""
        return replace(
            config,
            block_rank=min(config.block_rank, self.max_rank),
            block_expand_rank=min(config.block_expand_rank, self.max_rank),
        )


@dataclass(frozen=True)
class LoraPlan:
    """The arrays of a ``libra.kernels.lora.LoraBatch``, on the host."""

    tiles: Int32s
    rows: Int32s
    records: Int32s
    tables: Int32s
    max_rank: int
    alignment: int
    config: LoraConfig

    @property
    def arrays(self) -> tuple[Int32s, Int32s, Int32s, Int32s]:
        """In the order of the fields."""
        return (self.tiles, self.rows, self.records, self.tables)


def _tiles(counts: npt.NDArray[np.int64], block_tokens: int) -> Int32s:
    """Cuts each adapter's tokens, ``counts[i]`` of record i, into tiles of up to ``block_tokens``, [tiles, 4]."""
    per_adapter = -(-counts // block_tokens)
    adapters = np.repeat(np.arange(len(counts)), per_adapter)
    done = (np.arange(len(adapters)) - np.repeat(np.cumsum(per_adapter) - per_adapter, per_adapter)) * block_tokens
    tiles = np.zeros((len(adapters), TILE_COLUMNS), dtype=np.int32)
    tiles[:, 0] = adapters
    tiles[:, 1] = (np.cumsum(counts) - counts)[adapters] + done
    tiles[:, 2] = np.minimum(counts[adapters] - done, block_tokens)
    return tiles


def _record(layout: UnitLayout) -> Int32s:
    record = np.zeros(RECORD_COLUMNS, dtype=np.int32)
    record[RECORD_RANK] = layout.spec.rank
    record[RECORD_UNITS_PER_BLOCK] = layout.units_per_block
    record[RECORD_UNIT_ELEMS] = layout.unit_elems
    offsets = [layout.offsets.get(module, -1) for module in TARGET_MODULES]
    record[RECORD_OFFSETS : RECORD_OFFSETS + NUM_MODULES] = offsets
    return record


def _starts(layout: UnitLayout) -> list[int]:
    """Where rows of A and of B begin, and what is added to find the next unit and block."""
    a = [layout.a_slice(module).start for module in layout.offsets]
    b = [layout.b_slice(module).start for module in layout.offsets]
    return [*a, *b, layout.unit_elems, layout.block_elems]
