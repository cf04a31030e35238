"""Products with paged adapters against plain products with the weights that were packed."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from libra.errors import LibraError
from libra.kernels.lora import LoraBatch, expand, expand_reference, shrink, shrink_reference
from libra.kernels.lora_plan import (
    DECODE,
    DECODE_DISTINCT,
    LONG_PREFILL,
    SHORT_PREFILL,
    LoraConfig,
    LoraLayouts,
    LoraPlan,
)
from libra.model.lora import DOWN, GATE_UP, OUTPUT, QKV, ModuleGroup, Segment, module_groups
from libra.spec import TARGET_MODULES, ModelSpec
from tests.libra.kernels.builders import BLOCK_TOKENS, QUERY_VALUE, SPEC, Pool
from tests.libra.kernels.conftest import DEVICE, HAS_GPU, Machine
from tests.libra.kernels.tolerances import DTYPES, assert_near

Owners = list[str | None]
Ranks = tuple[int, ...]

LAYER = 1
MANY_BLOCKS = 4000
# What kernels run on: rows of 128 and more, all multiples of 16.
WIDE = ModelSpec("wide", 2, 1024, 8, 2, 128, 2816, 100, dtype_bytes=2)
# Small blocks, so that loops turn more than once at small shapes.
VECTORS = LoraConfig(1, 2, 128, 32, 64, 128, num_warps=4, num_stages=2)
MATRICES = LoraConfig(16, 2, 64, 32, 64, 64, num_warps=4, num_stages=2)
ONE_SPLIT = LoraConfig(64, 1, 64, 32, 64, 64, num_warps=4, num_stages=2)

MIXED_RANKS = (8, 128, 24, 64, 100)


def owners(popularity: str, num_tokens: int) -> Owners:
    """Each token's adapter after Punica's cases; every fifth token is the base model's where adapters are mixed."""
    generator = np.random.default_rng(num_tokens)
    if popularity == "identical":
        return ["a0"] * num_tokens
    if popularity == "distinct":
        return [f"a{i}" for i in range(num_tokens)]
    if popularity == "base":
        return [None] * num_tokens
    draws = {
        "uniform": lambda: generator.integers(int(num_tokens**0.5) + 1),
        "zipf": lambda: min(generator.zipf(1.5), 8),
        "skewed": lambda: 0 if generator.random() < 0.9 else generator.integers(1, 6),
    }
    return [None if i % 5 == 4 else f"a{draws[popularity]()}" for i in range(num_tokens)]


def filled(spec: ModelSpec, block_tokens: int, dtype: torch.dtype, device: str, used: Owners, ranks: Ranks) -> Pool:
    """A pool with the adapters that ``used`` names, every third for queries and values alone, and one block left."""
    names = sorted({name for name in used if name is not None})
    needed = 1
    for last in (False, True):
        pool = Pool.make(dtype, device if last else "cpu", needed if last else MANY_BLOCKS, spec, block_tokens)
        for number, name in enumerate(names):
            pool.add_adapter(name, ranks[number % len(ranks)], QUERY_VALUE if number % 3 == 2 else TARGET_MODULES)
        needed += sum(map(len, pool.blocks.values()))
    return pool


def plan(pool: Pool, used: Owners, config: LoraConfig) -> LoraPlan | None:
    segments = [Segment(i, i + 1, name) for i, name in enumerate(used)]
    blocks = {name: pool.blocks[name] for name in used if name is not None}
    return LoraLayouts(pool.layouts, pool.arena.element_size()).plan(segments, blocks, config)


def on_device(pool: Pool, planned: LoraPlan) -> LoraBatch:
    arrays = (pool.int32(array) for array in (planned.tiles, planned.rows, planned.records, planned.tables))
    return LoraBatch(*arrays, planned.max_rank, planned.alignment, planned.config)


def plain(pool: Pool, used: Owners, group: ModuleGroup, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """out + B A x in float32, from the weights that were packed, one token at a time."""
    expected = out.float().cpu().clone()
    for token, name in enumerate(used):
        for index, module in enumerate(group.modules):
            if name is not None and module in pool.weights[name]:
                pair = pool.weights[name][module]
                product = pair.b[LAYER].T.float() @ (pair.a[LAYER].float() @ x[token].float().cpu())
                expected[token, group.columns(index)] += product
    return expected


def check(pool: Pool, used: Owners, config: LoraConfig, group: ModuleGroup) -> None:
    """Kernels, references and plain products agree, and write exactly the same elements."""
    planned = plan(pool, used, config)
    assert planned is not None
    batch = on_device(pool, planned)
    width = group.num_pieces * group.piece_width
    # Both are parts of wider tensors, as in the forward pass.
    x = pool.random(len(used), group.fan_in + 16)[:, : group.fan_in]
    out = pool.random(len(used), width + 16)[:, :width]
    expected = plain(pool, used, group, x, out)

    arguments = (batch, pool.arena, pool.spec.num_layers, LAYER, group)
    kernel_out, reference_out = out.clone(), out.clone()
    kernel_shrunk = batch.new_shrunk(3, pool.arena.device, pool.dtype).fill_(float("nan"))
    reference_shrunk = kernel_shrunk.clone()
    shrink(*arguments, x, kernel_shrunk)
    shrink_reference(*arguments, x, reference_shrunk)
    assert torch.equal(kernel_shrunk.isnan(), reference_shrunk.isnan())
    assert_near(kernel_shrunk.nansum(0).to(pool.dtype), reference_shrunk.nansum(0))
    expand(*arguments, kernel_shrunk, kernel_out)
    expand_reference(*arguments, reference_shrunk, reference_out)
    assert_near(reference_out, expected)
    assert_near(kernel_out, expected)
    base = [token for token, name in enumerate(used) if name is None]
    assert torch.equal(kernel_out[base], out[base])


@pytest.mark.parametrize(
    ("popularity", "num_tokens", "ranks", "config", "group", "dtype"),
    [
        ("identical", 1, (8,), VECTORS, QKV, torch.float32),
        ("identical", 133, (100,), ONE_SPLIT, QKV, torch.bfloat16),
        ("distinct", 5, MIXED_RANKS, VECTORS, QKV, torch.float16),
        ("distinct", 7, MIXED_RANKS, MATRICES, GATE_UP, torch.bfloat16),
        ("uniform", 37, MIXED_RANKS, MATRICES, QKV, torch.float32),
        ("uniform", 9, (16, 32), VECTORS, DOWN, torch.bfloat16),
        ("zipf", 50, MIXED_RANKS, MATRICES, OUTPUT, torch.float16),
        ("zipf", 133, (8, 64, 40), ONE_SPLIT, GATE_UP, torch.float32),
        ("skewed", 64, (128, 8), ONE_SPLIT, OUTPUT, torch.float16),
        ("skewed", 21, MIXED_RANKS, VECTORS, OUTPUT, torch.float32),
    ],
)
def test_a_mixed_batch(
    machine: Machine, popularity: str, num_tokens: int, ranks: Ranks, config: LoraConfig, group: int,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    used = owners(popularity, num_tokens)
    pool = filled(SPEC, BLOCK_TOKENS, dtype, machine.device, used, ranks)
    check(pool, used, replace(config, num_stages=machine.num_stages), module_groups(SPEC)[group])


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")
@pytest.mark.parametrize("config", [DECODE, DECODE_DISTINCT, SHORT_PREFILL, LONG_PREFILL])
@pytest.mark.parametrize("num_stages", [1, 2, 3])
def test_the_shapes_that_are_launched(num_stages: int, config: LoraConfig) -> None:
    for popularity, dtype in itertools.product(("identical", "distinct", "zipf"), DTYPES):
        used = owners(popularity, 64)
        pool = filled(WIDE, 32, dtype, "cuda", used, MIXED_RANKS)
        for group in module_groups(WIDE):
            check(pool, used, fit_stages(config, num_stages, dtype), group)


def fit_stages(config: LoraConfig, num_stages: int, dtype: torch.dtype) -> LoraConfig:
    """float32 takes twice the shared memory."""
    halves = 2 if dtype == torch.float32 else 1
    return replace(config, num_stages=num_stages, block_features=config.block_features // halves)


def test_a_batch_of_the_base_model_alone_has_no_plan() -> None:
    pool = filled(SPEC, BLOCK_TOKENS, torch.float32, DEVICE, ["a0"], (8,))
    assert plan(pool, [None, None], MATRICES) is None


def test_tiles_cover_each_adapters_tokens_once() -> None:
    used = owners("zipf", 133)
    pool = filled(SPEC, BLOCK_TOKENS, torch.float32, DEVICE, used, (8, 24))
    planned = plan(pool, used, MATRICES)
    assert planned is not None
    names = sorted({name for name in used if name is not None})
    seen: list[int] = []
    for record, start, count, _ in planned.tiles.tolist():
        rows = planned.rows[start : start + count].tolist()
        assert 0 < count <= MATRICES.block_tokens
        assert {used[row] for row in rows} == {names[record]}
        seen += rows
    assert sorted(seen) == [row for row, name in enumerate(used) if name is not None]


def test_padding_tiles_change_nothing(machine: Machine) -> None:
    """A captured graph launches as many tiles as its bucket may need."""
    used: Owners = ["a0", None, "a1"]
    pool = filled(SPEC, BLOCK_TOKENS, torch.float32, machine.device, used, (8, 24))
    planned = plan(pool, used, VECTORS)
    assert planned is not None
    group = module_groups(SPEC)[DOWN]
    x, out = pool.random(3, group.fan_in), pool.random(3, group.num_pieces * group.piece_width)
    outputs = []
    for padding in (0, 3):
        batch = on_device(pool, replace(planned, tiles=np.pad(planned.tiles, ((0, padding), (0, 0)))))
        shrunk = batch.new_shrunk(1, pool.arena.device, pool.dtype)
        outputs.append(out.clone())
        shrink(batch, pool.arena, SPEC.num_layers, LAYER, group, x, shrunk)
        expand(batch, pool.arena, SPEC.num_layers, LAYER, group, shrunk, outputs[-1])
    assert torch.equal(*outputs)


def test_wrong_shapes_and_types_are_refused() -> None:
    used: Owners = ["a0", "a0"]
    pool = filled(SPEC, BLOCK_TOKENS, torch.float32, DEVICE, used, (8,))
    planned = plan(pool, used, MATRICES)
    assert planned is not None
    batch, group = on_device(pool, planned), module_groups(SPEC)[QKV]
    zeros = torch.zeros(2, 96, device=DEVICE)
    shrunk = batch.new_shrunk(3, pool.arena.device, pool.dtype)
    arguments = (batch, pool.arena, SPEC.num_layers, LAYER, group)
    with pytest.raises(ValueError, match="47 columns"):
        shrink(*arguments, zeros[:, :47], shrunk)
    with pytest.raises(ValueError, match="elements of a row lie 2 apart"):
        shrink(*arguments, zeros[:, ::2], shrunk)
    with pytest.raises(ValueError, match="bfloat16 on cpu beside"):
        shrink(*arguments, zeros.bfloat16(), shrunk)
    with pytest.raises(ValueError, match="shrunk"):
        shrink(*arguments, zeros[:, :48], shrunk[:, :, :1])
    with pytest.raises(LibraError, match="float64"):
        shrink(batch, pool.arena.double(), SPEC.num_layers, LAYER, group, zeros.double(), shrunk)
