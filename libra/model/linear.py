"""Products with constant weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

LinearMap = Callable[[torch.Tensor], torch.Tensor]


def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this CPU have oneDNN's prepacked product for ``dtype``."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None = None, prepack: bool = True) -> LinearMap:
    """x [tokens, in] -> x @ weight.T + bias [tokens, out], for a ``weight`` [out, in] that never changes.

    With ``prepack`` the weight is stored once in the tiled layout that oneDNN computes in. ``F.linear`` lays it out
    anew in every call, which at the few tokens of a decode step costs more than the product itself: up to seven times
    in float32. Without it, or where the build cannot, this is ``F.linear``.
    """
    if not (prepack and can_prepack(weight.dtype)):
        return lambda x: F.linear(x, weight, bias)
    # No batch size is given as a hint: the layout for 1 token is several times slower at others, this one at none.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, packed, bias, "none", [], "")
