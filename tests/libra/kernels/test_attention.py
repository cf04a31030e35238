"""Attention over scattered blocks against attention over plain tensors."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from libra.errors import LibraError
from libra.kernels.attention import (
    AttentionConfig,
    attend,
    attend_reference,
    decode_config,
    pipeline_stages,
    prefill_config,
)
from libra.kernels.runtime import ceil_div
from libra.kernels.step_plan import StepPlanner
from libra.model.attention import Span
from libra.spec import ModelSpec
from tests.libra.kernels.builders import BLOCK_TOKENS, SPEC, Pool
from tests.libra.kernels.conftest import DEVICE, HAS_GPU, Machine
from tests.libra.kernels.tolerances import DTYPES, assert_near

LAYER = 2
# (cached prefix, new tokens) of each sequence.
Lengths = list[tuple[int, int]]
WIDE = ModelSpec("wide", 3, 1024, 16, 4, 128, 2816, 100, dtype_bytes=2)


class Sequences:
    """Sequences whose KV fills a pool but for one block; what they do not use of their last blocks is NaN."""

    def __init__(self, lengths: Lengths, dtype: torch.dtype, device: str, spec: ModelSpec, block_tokens: int) -> None:
        ends = [prefix + new for prefix, new in lengths]
        needed = sum(ceil_div(end, block_tokens) for end in ends)
        self.pool = Pool.make(dtype, device, needed + 1, spec, block_tokens)
        tables = [self.pool.take(ceil_div(end, block_tokens)) for end in ends]
        self.spans = [Span(t, prefix, new) for t, (prefix, new) in zip(tables, lengths, strict=True)]
        shape = (spec.num_kv_heads, spec.head_dim)
        self.keys, self.values = ([self.pool.random(end, *shape) for end in ends] for _ in range(2))
        kv = self.pool.kv
        for span, keys, values in zip(self.spans, self.keys, self.values, strict=True):
            rows = torch.from_numpy(kv.key_rows(span.block_table, 0, span.end)).to(device)
            kv.write(rows + 2 * LAYER * block_tokens, keys.flatten(1), values.flatten(1))
        num_new = sum(new for _, new in lengths)
        # Queries lie beside keys and values, as the forward pass has them.
        heads = self.pool.random(num_new, spec.num_heads + 2 * spec.num_kv_heads, spec.head_dim)
        self.queries = heads[:, : spec.num_heads]

    def tiles(self, tile_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tiles, one of them padding, and the block tables."""
        tiles, tables, row = [(0, 0, 0, 0)], [], 0
        for span in self.spans:
            for done in range(0, span.num_tokens, tile_tokens):
                num_tokens = min(tile_tokens, span.num_tokens - done)
                tiles.append((row + done, num_tokens, span.start + done, len(tables)))
            row += span.num_tokens
            tables += span.block_table
        return self.pool.int32(tiles), self.pool.int32(tables)

    def plain(self) -> torch.Tensor:
        """Attention in float32, sequence by sequence."""
        group = self.pool.spec.num_heads // self.pool.spec.num_kv_heads
        queries = self.queries.float().cpu().split([span.num_tokens for span in self.spans])
        outputs = []
        for query, keys, values in zip(queries, self.keys, self.values, strict=True):
            k, v = (t.float().cpu().repeat_interleave(group, dim=1).transpose(0, 1) for t in (keys, values))
            visible = torch.ones(len(query), len(keys), dtype=torch.bool).tril(len(keys) - len(query))
            outputs.append(F.scaled_dot_product_attention(query.transpose(0, 1), k, v, attn_mask=visible))
        return torch.cat([output.transpose(0, 1) for output in outputs])


def check(sequences: Sequences, config: AttentionConfig) -> None:
    """Kernel, reference and plain attention agree, and every element is written."""
    spec = sequences.pool.spec
    tiles, tables = sequences.tiles(config.tile_tokens(spec.num_heads // spec.num_kv_heads))
    expected = sequences.plain()
    for function in (attend_reference, attend):
        output = torch.full(expected.shape, float("nan"), dtype=sequences.pool.dtype, device=sequences.pool.device)
        function(sequences.queries, sequences.pool.kv, LAYER, tiles, tables, config, output)
        assert_near(output, expected)


@pytest.mark.parametrize(
    ("lengths", "config", "dtype"),
    [
        # Decode: one token each, contexts from the first token on, some shorter than a split.
        ([(0, 1), (70, 1), (31, 1)], AttentionConfig(16, 32, 3, 4, 2), torch.float32),
        ([(131, 1)], AttentionConfig(16, 32, 5, 4, 2), torch.bfloat16),
        ([(18, 1), (19, 1), (20, 1)], AttentionConfig(16, 16, 1, 4, 2), torch.float16),
        # Chunks: with no prefix, a prefix that ends in a block, at its end, and longer than the chunk.
        ([(0, 23)], AttentionConfig(32, 16, 1, 4, 2), torch.bfloat16),
        ([(13, 7), (40, 21), (20, 1)], AttentionConfig(32, 32, 1, 4, 2), torch.float32),
        ([(90, 11)], AttentionConfig(64, 32, 2, 4, 2), torch.float16),
    ],
)
def test_paged_equals_plain(machine: Machine, lengths: Lengths, config: AttentionConfig, dtype: torch.dtype) -> None:
    sequences = Sequences(lengths, dtype, machine.device, SPEC, BLOCK_TOKENS)
    check(sequences, staged(config, machine.num_stages))


def staged(config: AttentionConfig, num_stages: int) -> AttentionConfig:
    """With as many stages as the assembler can be trusted with."""
    return replace(config, num_stages=pipeline_stages(config.block_rows, num_stages))


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")
@pytest.mark.parametrize("num_stages", [1, 2, 3])
def test_the_shapes_that_are_launched(num_stages: int) -> None:
    for dtype, (kv_heads, head_dim) in itertools.product(DTYPES, ((16, 128), (4, 128), (2, 64), (4, 80))):
        spec = replace(WIDE, num_kv_heads=kv_heads, head_dim=head_dim)
        group, size = spec.num_heads // kv_heads, dtype.itemsize
        decode = Sequences([(p, 1) for p in (0, 31, 700, 2047, 2048)], dtype, "cuda", spec, 32)
        check(decode, staged(decode_config(5, 2049, kv_heads, group, size), num_stages))
        chunks = Sequences([(0, 300), (1000, 129), (64, 5)], dtype, "cuda", spec, 32)
        check(chunks, staged(prefill_config(300, group, head_dim, size), num_stages))


def test_a_planned_step_covers_every_token() -> None:
    """Rows, tiles and tables of decode and prefill lie in one buffer, and the plan knows where."""
    sequences = Sequences([(30, 1), (5, 1), (12, 9), (0, 4)], torch.float32, DEVICE, SPEC, BLOCK_TOKENS)
    pool = sequences.pool
    planner = StepPlanner(pool.kv, SPEC, {})
    for _ in range(2):
        step = planner.plan(sequences.spans[:2], sequences.spans[2:], None)
        output = torch.full(sequences.queries.shape, float("nan"), device=DEVICE)
        assert [launch.num_tokens for launch in step.launches] == [2, len(output)]
        for launch in step.launches:
            rows = slice(launch.num_tokens)
            arguments = (launch.tiles, step.tables, launch.config, output[rows])
            attend_reference(sequences.queries[rows], pool.kv, LAYER, *arguments)
        assert_near(output, sequences.plain())
        key_rows = torch.cat([torch.from_numpy(pool.kv.key_rows(*span)) for span in sequences.spans])
        assert step.key_rows.tolist() == key_rows.tolist()
        assert step.lora is None


def test_splits_fill_the_device_but_stay_worth_merging() -> None:
    assert decode_config(256, 4096, 8, 4, 2).splits == 1
    assert decode_config(1, 4096, 8, 4, 2).splits == 16
    assert decode_config(1, 100, 8, 4, 2).splits == 1
    assert decode_config(8, 131072, 8, 4, 2).splits == 8


def test_tall_tiles_are_pipelined_where_the_assembler_can_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, stages in (("3.6.0", 1), ("3.9.0", 2), ("3.10.1", 2)):
        monkeypatch.setattr("libra.kernels.runtime.triton.__version__", version)
        assert prefill_config(300, 4, 128, 2).num_stages == stages
        assert prefill_config(4, 4, 128, 2).num_stages == 2


def test_what_the_kernel_cannot_take_is_refused() -> None:
    sequences = Sequences([(3, 2)], torch.float32, DEVICE, SPEC, BLOCK_TOKENS)
    tiles, tables = sequences.tiles(5)
    config, kv = AttentionConfig(16, 16, 1, 4, 2), sequences.pool.kv
    output = torch.zeros(2, 6, 16, device=DEVICE)
    with pytest.raises(ValueError, match="contiguous int32"):
        attend(sequences.queries, kv, 0, tiles.long(), tables, config, output)
    with pytest.raises(ValueError, match="output"):
        attend(sequences.queries, kv, 0, tiles, tables, config, output[:1])
    with pytest.raises(ValueError, match="groups of 3 heads"):
        attend(sequences.queries, kv, 0, tiles, tables, replace(config, block_rows=2), output)
    with pytest.raises(LibraError, match="heads of 512 dimensions"):
        attend(output.new_zeros(2, 6, 512), kv, 0, tiles, tables, config, output)
