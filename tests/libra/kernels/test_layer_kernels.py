"""The small kernels of a layer, and block copies, against their torch references."""

from collections.abc import Callable

import pytest
import torch

from libra.errors import LibraError
from libra.kernels.activation import silu_mul, silu_mul_reference
from libra.kernels.kv_write import write_kv, write_kv_reference
from libra.kernels.norm import add_rms_norm, add_rms_norm_reference
from libra.kernels.rope import rotate_and_write, rotate_and_write_reference
from libra.kernels.runtime import check_can_launch, check_head_dim
from libra.kernels.swap import copy_blocks, copy_blocks_reference
from libra.model.config import RopeConfig
from libra.model.rope import inverse_frequencies, rotations
from tests.libra.kernels.builders import BLOCK_TOKENS, SPEC, Pool
from tests.libra.kernels.conftest import DEVICE, Machine
from tests.libra.kernels.tolerances import DTYPES, assert_near

NUM_TOKENS = 7
LAYER = 1

dtypes = pytest.mark.parametrize("dtype", DTYPES)


@dtypes
@pytest.mark.parametrize("with_delta", [True, False])
def test_norm(machine: Machine, dtype: torch.dtype, with_delta: bool) -> None:
    pool = Pool.make(dtype, machine.device, 1)
    hidden, weight = pool.random(NUM_TOKENS, 80)[:, :72], 1 + pool.random(72, scale=0.1)
    delta = pool.random(NUM_TOKENS, 72) if with_delta else None
    kernel_hidden, reference_hidden = hidden.clone(), hidden.clone()
    actual = add_rms_norm(kernel_hidden, delta, weight, 1e-5)
    assert_near(actual, add_rms_norm_reference(reference_hidden, delta, weight, 1e-5))
    assert_near(kernel_hidden, reference_hidden)
    expected = hidden.float() + (0 if delta is None else delta.float())
    assert_near(kernel_hidden, expected)
    assert_near(actual, expected / (expected.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.float())


@dtypes
def test_silu_mul(machine: Machine, dtype: torch.dtype) -> None:
    gate_up = Pool.make(dtype, machine.device, 1).random(NUM_TOKENS, 2 * 2100, scale=3.0)
    actual = silu_mul(gate_up)
    assert_near(actual, silu_mul_reference(gate_up))
    gate, up = gate_up.float().chunk(2, -1)
    assert_near(actual, gate / (1 + (-gate).exp()) * up)


def random_key_rows(pool: Pool) -> torch.Tensor:
    """Distinct places of layer 0."""
    places = torch.randperm(len(pool.free) * BLOCK_TOKENS, generator=pool.generator)[:NUM_TOKENS]
    return pool.int32(places // BLOCK_TOKENS * 2 * SPEC.num_layers * BLOCK_TOKENS + places % BLOCK_TOKENS)


@dtypes
def test_write_kv(machine: Machine, dtype: torch.dtype) -> None:
    arenas = []
    for function in (write_kv, write_kv_reference):
        pool = Pool.make(dtype, machine.device, 5)
        key_rows, width = random_key_rows(pool), SPEC.num_kv_heads * SPEC.head_dim
        keys, values = (pool.random(NUM_TOKENS, width + 8)[:, :width] for _ in range(2))
        function(pool.kv, LAYER, key_rows, keys, values)
        arenas.append(pool.arena)
        assert int((~pool.arena.isnan()).sum()) == 2 * NUM_TOKENS * width
    torch.testing.assert_close(*arenas, rtol=0, atol=0, equal_nan=True)


@dtypes
def test_rotate_and_write(machine: Machine, dtype: torch.dtype) -> None:
    results = []
    for function in (rotate_and_write, rotate_and_write_reference):
        pool = Pool.make(dtype, machine.device, 5)
        key_rows = random_key_rows(pool)
        heads = pool.random(NUM_TOKENS, SPEC.num_heads + 2 * SPEC.num_kv_heads, SPEC.head_dim)
        positions = torch.arange(NUM_TOKENS) * 37
        frequencies = inverse_frequencies(RopeConfig(10000.0), SPEC.head_dim)
        cos, sin = (t.to(machine.device) for t in rotations(positions, frequencies, dtype))
        before = heads.clone()
        queries = function(heads, cos, sin, pool.kv, LAYER, key_rows)
        assert queries.data_ptr() == heads.data_ptr()
        assert torch.equal(heads[:, SPEC.num_heads :], before[:, SPEC.num_heads :])
        results.append((queries, pool.arena))
    (queries, arena), (expected_queries, expected_arena) = results
    assert_near(queries, expected_queries)
    assert torch.equal(arena.isnan(), expected_arena.isnan())
    assert_near(arena, expected_arena)


@dtypes
@pytest.mark.parametrize("num_copies", [1, 50])
def test_copy_blocks(machine: Machine, dtype: torch.dtype, num_copies: int) -> None:
    pool = Pool.make(dtype, machine.device, 1)
    source, target = pool.random(60, 36), pool.random(64, 36)
    source_blocks = pool.int32(torch.randint(60, (num_copies,), generator=pool.generator))
    target_blocks = pool.int32(torch.randperm(64, generator=pool.generator)[:num_copies])
    expected = target.clone()
    copy_blocks(source, source_blocks, target, target_blocks)
    copy_blocks_reference(source, source_blocks, expected, target_blocks)
    assert torch.equal(target, expected)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device=DEVICE)


EMPTY = torch.zeros(0, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: add_rms_norm(zeros(2, 8), None, zeros(7), 1e-5), "weight"),
        (lambda: silu_mul(zeros(2, 9)), "9 columns"),
        (lambda: copy_blocks(zeros(2, 8), EMPTY, zeros(2, 6), EMPTY), "blocks of 8"),
        (lambda: copy_blocks(zeros(2, 3), EMPTY, zeros(2, 3), EMPTY), "12 bytes"),
        (lambda: write_kv(Pool.make(torch.float32, DEVICE, 1).kv, 0, EMPTY, *zeros(2, 1, 32)), "keys"),
    ],
)
def test_wrong_shapes_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_no_kernel_can_run_on_is_named() -> None:
    with pytest.raises(LibraError, match="heads of 33 dimensions"):
        check_head_dim(33)
    check_can_launch(torch.device("cuda"))
