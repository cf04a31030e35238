"""One implementation of one kernel at one shape: how to run it, what it must compute, what it must move."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Shape = dict[str, int | str]

# Of ||out - reference|| / ||reference||, the reference in float32. One rounding to bfloat16 changes a value by up to
# 2 ** -8 of it, to float16 by up to 2 ** -11.
ERROR_LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class Case:
    """``prepare`` puts NaN or starting values where ``run`` writes. ``run(turn)`` computes; turns up to ``num_turns``
    read different memory, so that caches stay as cold as in a forward pass. ``collect`` makes of what it returns all
    that it computed, ``reference`` gives the same for turn 0 from a plain implementation. ``num_bytes`` and ``flops``
    are the least of one turn. ``capturable``: can be replayed as a CUDA graph.
    """

    kernel: str
    implementation: str
    shape: Shape
    prepare: Callable[[], None]
    run: Callable[[int], torch.Tensor]
    reference: Callable[[], torch.Tensor]
    num_bytes: int
    flops: int
    num_turns: int = 1
    capturable: bool = True
    collect: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.float

    def error(self) -> float:
        """||out - reference|| / ||reference|| of one run, NaN when anything was not written."""
        self.prepare()
        expected = self.reference().float()
        self.prepare()
        actual = self.collect(self.run(0)).float()
        return float((actual - expected).norm() / expected.norm())


@dataclass(frozen=True)
class Scale:
    """How large the cases are. ``decode`` (sequences, context), ``prefill`` (tokens, cached prefix), ``lora`` (batch,
    adapters, rank), ``tokens`` for the kernels of a layer."""

    model: str
    num_layers: int
    block_tokens: int
    lora: tuple[tuple[int, int, int], ...]
    decode: tuple[tuple[int, int], ...]
    prefill: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]


# Enough layers that a turn finds none of its weights in a cache of 60 MB.
FULL = Scale(
    model="llama3-8b",
    num_layers=8,
    block_tokens=32,
    lora=tuple(
        (batch, adapters, rank)
        for rank in (16, 32, 64)
        for batch, adapters in ((1, 1), (8, 8), (64, 1), (64, 8), (64, 64), (256, 64))
    ),
    decode=((1, 1024), (1, 32768), (32, 1024), (32, 4096), (128, 1024)),
    prefill=((512, 0), (512, 4096), (2048, 0), (2048, 8192)),
    tokens=(32, 2048),
)
# What Triton's interpreter finishes in seconds.
TINY = Scale(
    model="tiny",
    num_layers=2,
    block_tokens=16,
    lora=((1, 1, 16), (6, 3, 24)),
    decode=((2, 40),),
    prefill=((9, 0), (7, 20)),
    tokens=(3,),
)
