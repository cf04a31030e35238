"""Attention over paged KV against attention over plain tensors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from libra.model.attention import Span, attend, plan_attention
from libra.model.paged_kv import PagedKV
from tests.tiny_models import SPEC

BLOCK_TOKENS = 5
LAYER = 1


class Pool:
    """A dirty pool, the sequences' tables in it, and their KV as plain tensors."""

    def __init__(self, lengths: list[int], dtype: torch.dtype = torch.float32, garbage: float | None = None) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(4)
        self.hbm = torch.randn(200, SPEC.block_elems(BLOCK_TOKENS), generator=self.generator).to(dtype)
        if garbage is not None:
            self.hbm.fill_(garbage)
        self.kv = PagedKV(self.hbm, SPEC, BLOCK_TOKENS)
        free = np.random.default_rng(4).permutation(200).tolist()
        self.tables = [[free.pop() for _ in range(-(-length // BLOCK_TOKENS))] for length in lengths]
        self.keys, self.values = ([self.random(n, SPEC.num_kv_heads) for n in lengths] for _ in range(2))

    def random(self, num_tokens: int, num_heads: int) -> torch.Tensor:
        return torch.randn(num_tokens, num_heads, SPEC.head_dim, generator=self.generator).to(self.dtype)


def run(
    lengths: list[int],
    num_new: list[int],
    num_decode: int,
    dtype: torch.dtype = torch.float32,
    garbage: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, Pool]:
    """Attention of the last ``num_new`` tokens of sequences of ``lengths``: paged and plain."""
    pool = Pool(lengths, dtype, garbage)
    spans = [Span(t, n - new, new) for t, n, new in zip(pool.tables, lengths, num_new, strict=True)]
    for span, keys, values in zip(spans, pool.keys, pool.values, strict=True):
        prefix = Span(span.block_table, 0, span.start)
        rows = pool.kv.rows_by_layer(pool.kv.key_rows(*prefix))[LAYER]
        pool.kv.write(rows, keys[: span.start].flatten(1), values[: span.start].flatten(1))
    plan = plan_attention(pool.kv, spans[:num_decode], spans[num_decode:], dtype)
    queries = pool.random(sum(num_new), SPEC.num_heads)
    new = [torch.cat([t[-n:] for t, n in zip(part, num_new, strict=True)]) for part in (pool.keys, pool.values)]
    paged = attend(plan, pool.kv, LAYER, queries, *new)
    return paged, torch.cat(plain(pool, queries.split(num_new))), pool


def plain(pool: Pool, queries: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    group = SPEC.num_heads // SPEC.num_kv_heads
    outputs = []
    for query, keys, values in zip(queries, pool.keys, pool.values, strict=True):
        k, v = (t.repeat_interleave(group, dim=1).transpose(0, 1) for t in (keys, values))
        visible = torch.ones(len(query), len(keys), dtype=torch.bool).tril(len(keys) - len(query))
        outputs.append(F.scaled_dot_product_attention(query.transpose(0, 1), k, v, attn_mask=visible))
    return [output.transpose(0, 1).flatten(1) for output in outputs]


@pytest.mark.parametrize(
    ("lengths", "num_new", "num_decode"),
    [
        ([1], [1], 0),
        ([1, 17], [1, 1], 2),
        ([23], [23], 0),
        ([23], [4], 0),
        ([3, 6, 90, 110, 12, 30], [1, 1, 1, 1, 12, 7], 4),
        ([150], [150], 0),
        ([9, 200, 128], [1, 133, 64], 1),
    ],
)
def test_paged_equals_plain(lengths: list[int], num_new: list[int], num_decode: int) -> None:
    paged, expected, _ = run(lengths, num_new, num_decode)
    torch.testing.assert_close(paged, expected)


def test_in_bfloat16_paged_stays_near_plain() -> None:
    paged, expected, _ = run([3, 17, 90, 110, 80], [1, 1, 1, 1, 70], 4, dtype=torch.bfloat16)
    torch.testing.assert_close(paged.float(), expected.float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_an_overflowing_adapter_left_in_a_block_does_not_matter(dtype: torch.dtype) -> None:
    paged, expected, _ = run([3, 17, 90, 83], [1, 1, 1, 72], 3, dtype, garbage=float("nan"))
    torch.testing.assert_close(paged.float(), expected.float(), rtol=0.02, atol=0.02)


def test_padding_gets_zeros_and_is_not_written() -> None:
    _, _, pool = run([23, 40], [1, 8], 1)
    spans = [Span(pool.tables[0], 22, 1), Span(pool.tables[1], 32, 8)]
    before = pool.hbm.clone()
    queries = pool.random(16, SPEC.num_heads)
    keys, values = (
        torch.cat([t[0][-1:], t[1][-8:], pool.random(7, SPEC.num_kv_heads)]) for t in (pool.keys, pool.values)
    )
    plan = plan_attention(pool.kv, spans[:1], spans[1:], torch.float32)
    attended = attend(plan, pool.kv, LAYER, queries, keys, values)
    assert attended[:9].abs().min() > 0
    assert not attended[9:].any()
    assert torch.equal(pool.hbm, before)


def test_only_the_steps_own_positions_are_written() -> None:
    _, _, pool = run([23, 40], [1, 8], 1)
    blocks = pool.hbm.view(200, SPEC.num_layers, 2, BLOCK_TOKENS, SPEC.num_kv_heads, SPEC.head_dim)
    for table, keys, values in zip(pool.tables, pool.keys, pool.values, strict=True):
        stored = blocks[table, LAYER].transpose(0, 1).flatten(1, 2)
        assert torch.equal(stored[0, : len(keys)], keys)
        assert torch.equal(stored[1, : len(values)], values)
    dirty = Pool([23, 40]).hbm.view(blocks.shape)
    assert torch.equal(blocks[:, 0], dirty[:, 0])
    others = [block for block in range(200) if block not in {*pool.tables[0], *pool.tables[1]}]
    assert torch.equal(blocks[others], dirty[others])


def test_short_and_long_sequences_do_not_share_a_call() -> None:
    pool = Pool([4, 9, 400, 420])
    spans = [Span(table, n - 1, 1) for table, n in zip(pool.tables, (4, 9, 400, 420), strict=True)]
    plan = plan_attention(pool.kv, spans, [], torch.float32)
    assert [group.tokens for group in plan.decode] == [slice(0, 2), slice(2, 4)]
    assert sum(group.hidden.numel() for group in plan.decode) < 2 * (4 + 9 + 400 + 420)


def test_blocks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="elements, not"):
        PagedKV(torch.zeros(4, 100), SPEC, BLOCK_TOKENS)
