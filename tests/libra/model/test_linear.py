"""Products with constant weights, prepacked or not."""

import pytest
import torch

from libra.model.linear import make_linear, padded_rows


@pytest.mark.parametrize("num_rows", [1, 7, 33])
def test_prepacked_equals_plain(num_rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(shape, generator=generator) for shape in ((24, 16), (24,), (num_rows, 16)))
    plain = make_linear(weight, bias, prepack=False)(x)
    torch.testing.assert_close(make_linear(weight, bias)(x), plain)
    torch.testing.assert_close(plain, x @ weight.T + bias)


def test_padded_sizes_are_few_near_and_stay_what_they_are() -> None:
    sizes = [padded_rows(count) for count in range(1, 2049)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 16 + 6 + 28 + 48
    for count, size in enumerate(sizes, start=1):
        assert count <= size <= max(count * 1.25, count + 7)
        assert padded_rows(size) == size
