"""Whole blocks from one arena to another: scattered blocks to a contiguous buffer, back, or arena to arena."""

import torch

from libra.kernels.runtime import Pointer, check_can_launch, check_indices, constexpr, jit, power_of_two, tl

# Programs of one launch: enough to keep a link busy, few enough to leave the processors to the computation.
_MAX_PROGRAMS = 32
_MAX_CHUNK = 1024


def copy_blocks(
    source: torch.Tensor, source_blocks: torch.Tensor, target: torch.Tensor, target_blocks: torch.Tensor
) -> None:
    """Copies blocks in one launch.

    Semantics: target[target_blocks] = source[source_blocks].

    ``source``, ``target`` [any number of blocks, block_elems], contiguous, of one dtype, blocks a multiple of 8 bytes;
    on a GPU either may be pinned host memory. Blocks int32 [copies], the target's distinct. A gather has 0, 1, 2, ...
    for ``target_blocks``, a scatter for ``source_blocks``. Mutates ``target``.
    Raises ValueError for other shapes, LibraError where no kernel can run.
    """
    check_can_launch(source_blocks.device)
    check_indices(source_blocks, target_blocks)
    if source.shape[1] != target.shape[1] or source.dtype != target.dtype:
        raise ValueError(f"blocks of {source.shape[1]} {source.dtype} into {target.shape[1]} {target.dtype}")
    if not (source.is_contiguous() and target.is_contiguous()) or len(source_blocks) != len(target_blocks):
        raise ValueError("arenas must be contiguous and have as many source as target blocks")
    num_words, rest = divmod(source.shape[1] * source.element_size(), 8)
    if rest:
        raise ValueError(f"blocks of {source.shape[1] * source.element_size()} bytes are no multiple of 8")
    if len(source_blocks):
        _copy_kernel[(min(_MAX_PROGRAMS, len(source_blocks)),)](
            source.view(torch.int64),
            target.view(torch.int64),
            source_blocks,
            target_blocks,
            len(source_blocks),
            num_words,
            min(_MAX_CHUNK, power_of_two(num_words)),
        )


def copy_blocks_reference(
    source: torch.Tensor, source_blocks: torch.Tensor, target: torch.Tensor, target_blocks: torch.Tensor
) -> None:
    """``copy_blocks`` in torch."""
    target[target_blocks.long()] = source[source_blocks.long()]


@jit("num_copies")
def _copy_kernel(
    source: "Pointer",
    target: "Pointer",
    source_blocks: "Pointer",
    target_blocks: "Pointer",
    num_copies: int,
    num_words: int,
    CHUNK: constexpr,
) -> None:
    words = tl.arange(0, CHUNK)
    for copy in range(tl.program_id(0), num_copies, tl.num_programs(0)):
        read = source + tl.load(source_blocks + copy).to(tl.int64) * num_words
        write = target + tl.load(target_blocks + copy).to(tl.int64) * num_words
        for start in range(0, num_words, CHUNK):
            inside = start + words < num_words
            tl.store(write + start + words, tl.load(read + start + words, mask=inside), mask=inside)
