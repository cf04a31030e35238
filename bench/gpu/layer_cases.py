"""The small kernels of a layer and block copies, beside the torch they replace."""

from collections.abc import Callable, Iterator

import torch

from bench.gpu.case import Case, Scale
from bench.gpu.world import World
from libra.kernels.activation import silu_mul, silu_mul_reference
from libra.kernels.norm import add_rms_norm, add_rms_norm_reference
from libra.kernels.rope import rotate_and_write, rotate_and_write_reference
from libra.kernels.swap import copy_blocks, copy_blocks_reference
from libra.model.config import RopeConfig
from libra.model.rope import inverse_frequencies, rotations

Result = Callable[[], torch.Tensor]
_COPIED_BLOCKS = 8


def layer_cases(scale: Scale, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """Norm with residual, rotation with KV write, gated activation, and copies of blocks."""
    for num_tokens in scale.tokens:
        world = World.make(scale, num_tokens // scale.block_tokens + 1, dtype, device)
        yield from _norm(world, num_tokens)
        yield from _rotate(world, num_tokens)
        yield from _activation(world, num_tokens)
    yield from _copies(World.make(scale, 2 * _COPIED_BLOCKS, dtype, device))


def _pair(
    kernel: str, world: World, shape: dict[str, int | str], kernel_run: Result, torch_run: Result,
    prepare: Callable[[], object], elems: int, collect: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.float,
) -> Iterator[Case]:  # fmt: skip
    """libra's kernel, and the torch it replaces, which is also what it is checked against. What they read was just
    written in a forward pass too, and lies in the cache where it fits: then the floor can be undercut."""
    for implementation, run in (("libra", kernel_run), ("torch", torch_run)):
        yield Case(
            kernel=kernel,
            implementation=implementation,
            shape=shape,
            prepare=lambda: _ignore(prepare()),
            run=lambda _, run=run: run(),  # type: ignore[misc]
            reference=lambda: collect(torch_run()).clone(),
            collect=collect,
            num_bytes=elems * world.arena.element_size(),
            flops=0,
        )


def _ignore(_: object) -> None:
    """For what is called for its effect alone."""


def _norm(world: World, num_tokens: int) -> Iterator[Case]:
    size = world.spec.hidden_size
    start, delta, weight = world.random(num_tokens, size), world.random(num_tokens, size), world.random(size)
    hidden = start.clone()
    yield from _pair(
        "add_rms_norm", world, {"tokens": num_tokens, "width": size},
        lambda: add_rms_norm(hidden, delta, weight, 1e-5),
        lambda: add_rms_norm_reference(hidden, delta, weight, 1e-5),
        lambda: hidden.copy_(start), 4 * num_tokens * size,
    )  # fmt: skip


def _activation(world: World, num_tokens: int) -> Iterator[Case]:
    size = world.spec.intermediate_size
    gate_up = world.random(num_tokens, 2 * size)
    yield from _pair(
        "silu_mul", world, {"tokens": num_tokens, "width": size},
        lambda: silu_mul(gate_up), lambda: silu_mul_reference(gate_up), lambda: None, 3 * num_tokens * size,
    )  # fmt: skip


def _rotate(world: World, num_tokens: int) -> Iterator[Case]:
    spec, kv = world.spec, world.kv
    start = world.random(num_tokens, spec.num_heads + 2 * spec.num_kv_heads, spec.head_dim)
    heads = start.clone()
    positions = torch.arange(num_tokens, device=start.device)
    frequencies = inverse_frequencies(RopeConfig(500000.0), spec.head_dim).to(start.device)
    cos, sin = rotations(positions, frequencies, start.dtype)
    table = world.take(num_tokens // world.block_tokens + 1)
    key_rows = world.int32(kv.key_rows(table, 0, num_tokens))

    def with_kv(queries: torch.Tensor) -> torch.Tensor:
        rows = key_rows.long()
        return torch.cat([queries.flatten(), kv.rows[rows].flatten(), kv.rows[rows + kv.block_tokens].flatten()])

    yield from _pair(
        "rotate_and_write", world, {"tokens": num_tokens, "width": heads.shape[1] * spec.head_dim},
        lambda: rotate_and_write(heads, cos, sin, kv, 0, key_rows),
        lambda: rotate_and_write_reference(heads, cos, sin, kv, 0, key_rows),
        lambda: heads.copy_(start), 2 * heads.numel(), with_kv,
    )  # fmt: skip


def _copies(world: World) -> Iterator[Case]:
    blocks = [world.int32(world.take(_COPIED_BLOCKS)) for _ in range(2)]
    target = torch.empty_like(world.arena)

    def result(function: Callable[..., None]) -> torch.Tensor:
        function(world.arena, blocks[0], target, blocks[1])
        return target

    elems = world.arena.shape[1]
    yield from _pair(
        "copy_blocks", world, {"blocks": _COPIED_BLOCKS, "block_bytes": elems * world.arena.element_size()},
        lambda: result(copy_blocks), lambda: result(copy_blocks_reference),
        lambda: target.zero_(), 2 * _COPIED_BLOCKS * elems,
    )  # fmt: skip
