"""RMSNorm, with the addition to the residual stream that precedes it."""

import torch
import torch.nn.functional as F

from libra.kernels.runtime import Pointer, check_operands, constexpr, jit, power_of_two, tl


def add_rms_norm(
    hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Adds to the residual stream and normalises it, reading it once.

    Semantics: hidden += delta; return weight * (hidden / sqrt(mean(hidden ** 2) + epsilon)).

    ``hidden``, ``delta`` [tokens, hidden size], ``delta`` None for no addition; ``weight`` [hidden size]. Returns a new
    [tokens, hidden size]. Mutates ``hidden`` unless ``delta`` is None. Squares are summed in float32; the sum and the
    normalised value are rounded to the dtype before they are used, as transformers does.
    Raises ValueError for other shapes, LibraError where no kernel can run.
    """
    check_operands(hidden, weight, *(() if delta is None else (delta,)))
    num_tokens, width = hidden.shape
    if weight.shape != (width,) or (delta is not None and delta.shape != hidden.shape):
        raise ValueError(f"weight {tuple(weight.shape)} or delta do not fit hidden {tuple(hidden.shape)}")
    normed = hidden.new_empty(num_tokens, width)
    if num_tokens == 0:
        return normed
    block = power_of_two(width)
    _norm_kernel[(num_tokens,)](
        hidden,
        hidden if delta is None else delta,
        weight,
        normed,
        hidden.stride(0),
        hidden.stride(0) if delta is None else delta.stride(0),
        epsilon,
        delta is not None,
        width,
        block,
        num_warps=min(16, max(1, block // 512)),
    )
    return normed


def add_rms_norm_reference(
    hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """``add_rms_norm`` in torch."""
    if delta is not None:
        hidden += delta
    return F.rms_norm(hidden.float(), (hidden.shape[-1],), eps=epsilon).to(hidden.dtype).mul_(weight)


@jit()
def _norm_kernel(
    hidden: "Pointer",
    delta: "Pointer",
    weight: "Pointer",
    normed: "Pointer",
    hidden_stride: int,
    delta_stride: int,
    epsilon: float,
    HAS_DELTA: constexpr,
    WIDTH: constexpr,
    BLOCK: constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    dtype = hidden.dtype.element_ty
    value = tl.load(hidden + token * hidden_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_DELTA:
        value += tl.load(delta + token * delta_stride + columns, mask=inside, other=0.0).to(tl.float32)
        stored = value.to(dtype)
        tl.store(hidden + token * hidden_stride + columns, stored, mask=inside)
        value = stored.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / WIDTH + epsilon)
    scaled = (value * scale).to(dtype).to(tl.float32)
    weights = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + token * WIDTH + columns, (scaled * weights).to(dtype), mask=inside)
