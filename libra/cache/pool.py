"""Equal blocks in two tiers: HBM and host memory.

Ownership of every block id of a tier:

    owner[block] == FREE      in the free list of the block's region
    owner[block] == RUNNING   private to a running sequence: not full yet, or not shared
    owner[block] == node >= 0 held by that node of the dependency tree, resident or in flight
"""

from collections.abc import Sequence

from libra.errors import LibraError

FREE = -1
RUNNING = -2


class Region:
    """A range of block ids with its own free list. Under a unified pool one region serves adapters and KV alike."""

    def __init__(self, first: int, num_blocks: int, owner: list[int]) -> None:
        self.first = first
        self.num_blocks = num_blocks
        self._owner = owner
        # Low ids are handed out first: the list is a stack.
        self._free = list(range(first + num_blocks - 1, first - 1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int, owner: int) -> list[int]:
        """Takes ``count`` free blocks for ``owner``. Raises RuntimeError when there are too few: ask first."""
        free = self._free
        if count > len(free):
            raise RuntimeError(f"{count} blocks asked of a region with {len(free)} free")
        if count == 0:
            return []
        blocks = free[-count:]
        del free[-count:]
        owners = self._owner
        for block in blocks:
            owners[block] = owner
        return blocks

    def allocate_each(self, owners: Sequence[int]) -> list[int]:
        """Takes one free block for each of ``owners``. Raises RuntimeError when there are too few: ask first."""
        blocks = self.allocate(len(owners), RUNNING)[::-1]
        for block, owner in zip(blocks, owners, strict=True):
            self._owner[block] = owner
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Returns blocks to the free list. Raises RuntimeError on a block that is free already."""
        owners = self._owner
        for block in blocks:
            if owners[block] == FREE:
                raise RuntimeError(f"block {block} released twice")
            owners[block] = FREE
        self._free.extend(blocks)

    def assign(self, blocks: Sequence[int], owner: int) -> None:
        """Hands allocated blocks from one owner to another."""
        owners = self._owner
        for block in blocks:
            if owners[block] == FREE:
                raise RuntimeError(f"block {block} is free and cannot change hands")
            owners[block] = owner


class BlockTier:
    """One memory tier. ``adapter_blocks`` > 0 cuts a static share for adapters off the front, as in vLLM."""

    def __init__(self, name: str, num_blocks: int, adapter_blocks: int | None = None) -> None:
        if num_blocks < 1:
            raise LibraError(f"the {name} tier has {num_blocks} blocks: give it more memory")
        self.name = name
        self.num_blocks = num_blocks
        self.owner = [FREE] * num_blocks
        self.is_split = adapter_blocks is not None
        if adapter_blocks is None:
            self.kv_region = self.adapter_region = Region(0, num_blocks, self.owner)
        else:
            self.adapter_region = Region(0, adapter_blocks, self.owner)
            self.kv_region = Region(adapter_blocks, num_blocks - adapter_blocks, self.owner)

    @property
    def regions(self) -> list[Region]:
        return [self.adapter_region, self.kv_region] if self.is_split else [self.kv_region]

    @property
    def num_free(self) -> int:
        return sum(region.num_free for region in self.regions)

    def check(self) -> None:
        """Proves free + owned = capacity, region by region. Raises AssertionError."""
        for region in self.regions:
            ids = range(region.first, region.first + region.num_blocks)
            free = sorted(region._free)
            expected = [block for block in ids if self.owner[block] == FREE]
            if free != expected:
                raise AssertionError(f"{self.name}: free list and owners disagree: {free} != {expected}")
