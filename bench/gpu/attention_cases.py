"""Attention over paged KV: decoding batches, and prefill chunks with and without a cached prefix."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from bench.gpu.case import Case, Scale
from bench.gpu.world import World, model_of
from libra.kernels.attention import AttentionConfig, attend, attend_reference, decode_config, prefill_config
from libra.kernels.runtime import ceil_div


def attention_cases(scale: Scale, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """libra's kernels, and torch's attention over KV that lies ready in one piece."""
    spec = model_of(scale)
    group = spec.num_heads // spec.num_kv_heads
    for sequences, context in scale.decode:
        config = decode_config(sequences, context, spec.num_kv_heads, group, dtype.itemsize)
        yield from _cases("attention decode", scale, sequences, context - 1, 1, config, dtype, device)
    for tokens, prefix in scale.prefill:
        config = prefill_config(tokens, group, spec.head_dim, dtype.itemsize)
        yield from _cases("attention prefill", scale, 1, prefix, tokens, config, dtype, device)


def _cases(
    kernel: str,
    scale: Scale,
    sequences: int,
    prefix: int,
    new: int,
    config: AttentionConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[Case]:
    spec, end = model_of(scale), prefix + new
    num_blocks = ceil_div(end, scale.block_tokens)
    world = World.make(scale, sequences * num_blocks, dtype, device)
    world.arena.mul_(20)  # from the size of weights to that of keys and values
    kv = world.kv
    heads = world.random(sequences * new, spec.num_heads + 2 * spec.num_kv_heads, spec.head_dim)
    queries = heads[:, : spec.num_heads]
    output = world.random(sequences * new, spec.num_heads, spec.head_dim)
    tables = world.int32(world.take(sequences * num_blocks))
    tile_tokens = config.tile_tokens(spec.num_heads // spec.num_kv_heads)
    tiles = world.int32(
        [
            (sequence * new + done, min(tile_tokens, new - done), prefix + done, sequence * num_blocks)
            for sequence in range(sequences)
            for done in range(0, new, tile_tokens)
        ]
    )

    def run(turn: int) -> torch.Tensor:
        attend(queries, kv, turn, tiles, tables, config, output)
        return output

    def reference() -> torch.Tensor:
        result = torch.empty_like(output, dtype=torch.float32)
        attend_reference(queries, kv, 0, tiles, tables, config, result)
        return result

    seen = sequences * (new * prefix + new * (new + 1) // 2)
    kv_elems = sequences * end * 2 * kv.width
    shared = {
        "kernel": kernel,
        "shape": {"batch": sequences, "tokens": new, "context": end, "splits": config.splits},
        "prepare": lambda: output.fill_(float("nan")),
        "reference": reference,
        "num_bytes": (kv_elems + 2 * output.numel()) * dtype.itemsize,
        "flops": 4 * seen * spec.num_heads * spec.head_dim,
        "num_turns": scale.num_layers,
    }
    yield Case(implementation="libra", run=run, **shared)  # type: ignore[arg-type]
    sdpa = _torch_attention(world, queries, tables, sequences, end, output)
    yield Case(implementation="torch sdpa", run=sdpa, **shared)  # type: ignore[arg-type]


def _torch_attention(
    world: World, queries: torch.Tensor, tables: torch.Tensor, sequences: int, end: int, output: torch.Tensor
) -> Callable[[int], torch.Tensor]:
    spec, kv = world.spec, world.kv
    new = len(queries) // sequences
    layers = []
    for layer in range(spec.num_layers):
        read = kv.read((tables.long() * spec.num_layers + layer) * 2)
        shape = (sequences, -1, spec.num_kv_heads, spec.head_dim)
        layers.append([rows.view(shape)[:, :end].transpose(1, 2).contiguous() for rows in read])
    mask = None
    if 1 < new < end:
        mask = torch.ones(new, end, dtype=torch.bool, device=queries.device).tril(end - new)
    batched = queries.reshape(sequences, new, spec.num_heads, spec.head_dim).transpose(1, 2)

    def run(turn: int) -> torch.Tensor:
        keys, values = layers[turn]
        result = F.scaled_dot_product_attention(
            batched, keys, values, attn_mask=mask, is_causal=new == end, enable_gqa=True
        )
        return output.copy_(result.transpose(1, 2).reshape(output.shape))

    return run
