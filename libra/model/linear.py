"""Products with constant weights."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

LinearMap = Callable[[torch.Tensor], torch.Tensor]
# Up to so many rows, in steps of so many.
_ROW_STEPS = ((16, 1), (64, 8), (512, 16), (math.inf, 32))


def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this CPU have oneDNN's prepacked product for ``dtype``."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def padded_rows(num_rows: int) -> int:
    """The number of rows to compute in place of ``num_rows``, at most 7, 15 or 31 more, in steps that grow with it.

    oneDNN compiles a product anew for every number of rows, half a dozen of them a step at about 1 ms each, and hardly
    two prompts have the same length. Rounded up, lengths are few enough for its cache.
    """
    step = next(step for limit, step in _ROW_STEPS if num_rows <= limit)
    return -(-num_rows // step) * step


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None = None, prepack: bool = True) -> LinearMap:
    """x [tokens, in] -> x @ weight.T + bias [tokens, out], for a ``weight`` [out, in] that never changes.

    With ``prepack`` the weight is stored once in the tiled layout that oneDNN computes in. ``F.linear`` lays it out
    anew in every call, which at the few tokens of a decode step costs more than the product itself: up to seven times
    in float32. Without it, on a GPU, or where the build cannot, this is ``F.linear``.
    """
    if not (prepack and weight.device.type == "cpu" and can_prepack(weight.dtype)):
        return lambda x: F.linear(x, weight, bias)
    # No batch size is given as a hint: the layout for 1 token is several times slower at others, this one at none.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, packed, bias, "none", [], "")
