"""Adapters read from the pool, over a whole step and over the rows that its last layer computes."""

import numpy as np
import pytest
import torch

from libra.kernels.backend import TritonBackend
from libra.model.attention import Span
from libra.model.backend import AdapterUse
from libra.model.lora import ActiveAdapters, GatheredAdapters, Segment, module_groups
from libra.model.packing import gather_units
from libra.model.tiny import MIXED_TARGETS, TinyAdapters, make_tiny
from tests.libra.engine.torch_driver import Driver
from tests.libra.kernels.builders import QUERY_VALUE, SPEC, Pool
from tests.libra.kernels.conftest import DEVICE, HAS_GPU, Machine
from tests.libra.kernels.tolerances import assert_near
from tests.tiny_models import SPEC as TINY_SPEC
from tests.tiny_models import TinyModel

LAYER = SPEC.num_layers - 1
# Two sequences decode; of four chunks the first is not its prompt's last.
DECODE: list[str | None] = ["a1", None]
CHUNKS: list[tuple[str | None, int, bool]] = [("a0", 5, False), ("a0", 4, True), (None, 3, True), ("a1", 6, True)]


@pytest.fixture
def pool(machine: Machine) -> Pool:
    pool = Pool.make(torch.float32, machine.device, 60)
    pool.add_adapter("a0", 8)
    pool.add_adapter("a1", 24, QUERY_VALUE)
    return pool


def step(pool: Pool) -> tuple[list[Span], list[Span], AdapterUse]:
    """The step of DECODE and CHUNKS."""
    decode = [Span(pool.take(1), 3, 1) for _ in DECODE]
    prefill = [Span(pool.take(1), 0, count) for _, count, _ in CHUNKS]
    counts = [1] * len(DECODE) + [count for _, count, _ in CHUNKS]
    ends = np.cumsum(counts).tolist()
    users = [*DECODE, *(user for user, *_ in CHUNKS)]
    segments = [Segment(end - n, end, user) for end, n, user in zip(ends, counts, users, strict=True)]
    yielding = [*DECODE, *(user for user, _, is_last in CHUNKS if is_last)]
    return decode, prefill, AdapterUse(segments, [Segment(i, i + 1, u) for i, u in enumerate(yielding)], pool.blocks)


def gathered(pool: Pool, use: AdapterUse) -> ActiveAdapters:
    units = {
        name: gather_units(pool.arena, torch.tensor(blocks, device=pool.device), pool.layouts[name])
        for name, blocks in use.blocks.items()
    }
    return GatheredAdapters(module_groups(SPEC), use.segments, units, pool.layouts, use.outputs)


def test_output_rows_get_what_torch_adds_to_them_and_others_nothing(pool: Pool) -> None:
    decode, prefill, use = step(pool)
    plan = TritonBackend().planner(pool.kv, SPEC, pool.layouts).plan(decode, prefill, use)
    plain = gathered(pool, use)
    assert plan.adapters is not None
    for adapters, reference, segments in (
        (plan.adapters, plain, use.segments),
        (plan.adapters.outputs, plain.outputs, use.outputs),
    ):
        assert adapters is not None
        assert reference is not None
        base = [row for start, end, user in segments if user is None for row in range(start, end)]
        for index, group in enumerate(module_groups(SPEC)):
            x = pool.random(segments[-1].end, group.fan_in)
            out = pool.random(segments[-1].end, group.num_pieces * group.piece_width)
            added, expected = out.clone(), out.clone()
            adapters.add(LAYER, index, x, added)
            reference.add(LAYER, index, x, expected)
            assert_near(added, expected)
            assert torch.equal(added[base], out[base])
            assert not torch.equal(added, out)


@pytest.mark.parametrize("num_decoding", [0, 2])
def test_where_no_output_row_has_an_adapter_the_last_layer_adds_none(num_decoding: int) -> None:
    """No chunk with an adapter is its prompt's last."""
    pool = Pool.make(torch.float32, DEVICE, 60)
    pool.add_adapter("a0", 8)
    decode = [Span(pool.take(1), 3, 1) for _ in range(num_decoding)]
    outputs = [Segment(row, row + 1, None) for row in range(num_decoding)]
    use = AdapterUse([*outputs, Segment(num_decoding, num_decoding + 4, "a0")], outputs, pool.blocks)
    plan = TritonBackend().planner(pool.kv, SPEC, pool.layouts).plan(decode, [Span(pool.take(1), 0, 4)], use)
    assert plan.adapters is not None
    assert plan.adapters.outputs is None


def test_a_decode_step_has_no_rows_to_leave_out() -> None:
    pool = Pool.make(torch.float32, DEVICE, 60)
    pool.add_adapter("a0", 8)
    each = [Segment(row, row + 1, "a0") for row in range(2)]
    decode = [Span(pool.take(1), 3, 1) for _ in each]
    plan = TritonBackend().planner(pool.kv, SPEC, pool.layouts).plan(decode, [], AdapterUse(each, each, pool.blocks))
    assert plan.adapters is not None
    assert plan.adapters.outputs is None


@pytest.mark.skipif(HAS_GPU, reason="kernels are compiled for the CUDA device in this process")
@pytest.mark.parametrize("kind", ["paged", "gathered", "stitched"])
def test_the_last_layer_computes_output_rows_alone(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    root = tmp_path_factory.mktemp("last") / "model"
    paths = make_tiny(root, TINY_SPEC, TinyAdapters(1, (4,), MIXED_TARGETS), max_length=64)
    tiny = TinyModel(root, TINY_SPEC, {path.name: path for path in paths})
    backend = TritonBackend() if kind == "paged" else None
    driver = Driver.make(tiny, block_tokens=19, stitch=kind == "stitched", prepack=False, backend=backend)
    model, rows = driver.executor._model, []
    gate = model.backend.gate
    monkeypatch.setattr(model.backend, "gate", lambda gate_up: rows.append(len(gate_up)) or gate(gate_up))
    user = next(iter(tiny.adapters))
    driver.run([driver.sequence([3, 1, 4, 1, 5, 9], 1, user) for _ in range(2)], chunk_tokens=6)
    assert rows[-1] == 2
    assert set(rows[:-1]) == {max(rows)}
    assert max(rows) >= 12
