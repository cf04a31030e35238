"""The gated activation of the MLP."""

import torch
import torch.nn.functional as F

from libra.kernels.runtime import Pointer, ceil_div, check_operands, constexpr, jit, power_of_two, tl

_MAX_BLOCK = 2048


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """Gates one half of a product by the other.

    Semantics: gate, up = gate_up; return silu(gate) * up.

    ``gate_up`` [tokens, 2 * width], tokens any distance apart; returns a new [tokens, width]. silu is computed in
    float32 and rounded to the dtype before the product, as torch does.
    Raises ValueError for an odd width, LibraError where no kernel can run.
    """
    check_operands(gate_up)
    num_tokens, double_width = gate_up.shape
    if double_width % 2:
        raise ValueError(f"gate and up of {double_width} columns together are not of one width")
    width = double_width // 2
    activated = gate_up.new_empty(num_tokens, width)
    if num_tokens:
        block = min(_MAX_BLOCK, power_of_two(width))
        grid = (num_tokens, ceil_div(width, block))
        _silu_mul_kernel[grid](gate_up, activated, gate_up.stride(0), width, block)
    return activated


def silu_mul_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """``silu_mul`` in torch."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


@jit()
def _silu_mul_kernel(
    gate_up: "Pointer", activated: "Pointer", token_stride: int, WIDTH: constexpr, BLOCK: constexpr
) -> None:
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    source = gate_up + token * token_stride + columns
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + WIDTH, mask=inside, other=0.0).to(tl.float32)
    dtype = activated.dtype.element_ty
    gated = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32)
    tl.store(activated + token * WIDTH + columns, (gated * up).to(dtype), mask=inside)
