"""Triton as the kernels see it: importable everywhere, launched only where it can run.

Kernels run on a CUDA device, or on a CPU in Triton's interpreter, which is on when TRITON_INTERPRET=1 was set before
this module was imported.
"""

from collections.abc import Callable
from typing import Any

import torch

from libra.errors import LibraError

try:
    import triton
    import triton.language
except ImportError:  # Triton exists for Linux alone; elsewhere the kernels can be read and imported, not launched.
    triton = None

tl: Any = None if triton is None else triton.language

# What the parameters of kernels are, for readers: addresses, and values of a whole block. In quotes, since Triton reads
# annotations and knows neither. It takes types from the arguments; ``constexpr`` are constants at compile time.
Pointer = Any
Block = Any
constexpr: Any = object if triton is None else tl.constexpr

INTERPRETED: Any = None if triton is None else constexpr(bool(triton.knobs.runtime.interpret))

MAX_HEAD_DIM = 256
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class _MissingKernel:
    """What a kernel is without Triton: launching it says so."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        raise LibraError("the triton backend needs the package triton, which exists for Linux; use --backend torch")


def jit(*no_specialization: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorates a kernel or a function used by kernels. The arguments named vary from launch to launch: without this
    Triton would compile anew for those equal to 1 and for multiples of 16."""

    def decorate(function: Callable[..., Any]) -> Any:
        if triton is None:
            return _MissingKernel()
        return triton.jit(function, do_not_specialize=list(no_specialization))

    return decorate


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
    return INTERPRETED is not None and bool(INTERPRETED.value)


def pipelines_register_operands() -> bool:
    """Whether a loop that is pipelined may hand wgmma a first operand in registers, as one is that was just computed.

    ptxas before 13.3 may overwrite those registers while they are read (triton-lang/triton #9433, #11781). From 3.9 on
    Triton takes a later one for Hopper.
    """
    return triton is not None and tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)


def check_can_launch(device: torch.device) -> None:
    """Raises LibraError when kernels cannot run on tensors of ``device``. For those on "meta", which have no memory,
    kernels can be compiled."""
    if triton is None:
        _MissingKernel()[()]
    if device.type not in ("cuda", "meta") and not interpreted():
        raise LibraError(
            f"Triton kernels cannot run on {device.type}: use --backend torch, or set TRITON_INTERPRET=1 to run them "
            "slowly in Triton's interpreter"
        )


def check_operands(first: torch.Tensor, *others: torch.Tensor) -> None:
    """What every launch needs: a place to run, one floating-point type that the kernels know, and rows whose elements
    stand side by side. Raises LibraError for the first two, ValueError for the last."""
    check_can_launch(first.device)
    if first.dtype not in FLOATS:
        raise LibraError(f"kernels compute in float32, bfloat16 or float16, not {first.dtype}; choose another --dtype")
    for tensor in (first, *others):
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(f"{tensor.dtype} on {tensor.device} beside {first.dtype} on {first.device}")
        if tensor.stride(-1) != 1:
            raise ValueError(f"elements of a row lie {tensor.stride(-1)} apart; the kernels need 1")


def check_head_dim(head_dim: int) -> None:
    """Raises LibraError for heads that the kernels cannot hold in registers or rotate by halves."""
    if head_dim > MAX_HEAD_DIM or head_dim % 2:
        raise LibraError(f"heads of {head_dim} dimensions: the triton backend takes even ones up to {MAX_HEAD_DIM}")


def check_indices(*indices: torch.Tensor) -> None:
    """Raises ValueError unless all are contiguous int32."""
    for tensor in indices:
        if tensor.dtype != torch.int32 or not tensor.is_contiguous():
            raise ValueError(f"indices must be contiguous int32, not {tensor.dtype} with strides {tensor.stride()}")


def compile_fault(error: BaseException) -> str | None:
    """The first line of what went wrong when ``error`` says that a kernel could not be compiled, or be loaded as it was
    compiled; None for every other error."""
    if triton is None or isinstance(error, LibraError | MemoryError | torch.OutOfMemoryError):
        return None
    is_fault = isinstance(error, triton.errors.TritonError)
    traceback = error.__traceback__
    while traceback is not None and not is_fault:
        # The compiler's passes, ptxas and the C compiler raise errors of their own kinds from within Triton.
        is_fault = str(traceback.tb_frame.f_globals.get("__name__")).startswith("triton.")
        traceback = traceback.tb_next
    # What the driver refuses at a launch is no matter of compiling, and nothing can be computed after it.
    if not is_fault or "Triton Error [CUDA]" in str(error):
        return None
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``: Triton's blocks have no other sizes."""
    return 1 << max(0, number - 1).bit_length()


@jit()
def dot(a: "Block", b: "Block", total: "Block") -> "Block":
    """``total + a @ b``, operands in their storage type, sums in float32.

    The interpreter keeps bfloat16 as integers and would multiply those, so there the operands are widened first, which
    changes no product.
    """
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")
