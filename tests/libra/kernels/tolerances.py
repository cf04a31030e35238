"""How far a kernel may be from its float32 reference, by the dtype it stores."""

import torch

# (relative, absolute). A stored value carries one rounding: 2 ** -8 for bfloat16, 2 ** -11 for float16; sums of rounded
# operands add a little. Float32 differs by the order of summation alone.
TOLERANCES = {
    torch.float32: (2e-5, 2e-5),
    torch.bfloat16: (1.6e-2, 1.6e-2),
    torch.float16: (2e-3, 2e-3),
}
DTYPES = tuple(TOLERANCES)


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares in float32 by the tolerance of ``actual``'s dtype; NaN is equal to NaN."""
    relative, absolute = TOLERANCES[actual.dtype]
    torch.testing.assert_close(
        actual.float().cpu(), expected.float().cpu(), rtol=relative, atol=absolute, equal_nan=True
    )
