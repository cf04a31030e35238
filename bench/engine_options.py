"""Options of the engine that several commands have."""

from typing import Annotated

import typer

from bench.settings import CPU, CUDA

# Headings of `--help`.
WORKLOAD, ENGINE, MEMORY = "Workload", "Engine", "Memory"

Dtype = Annotated[
    str | None,
    typer.Option(
        help=f"Of the real engine: float32, bfloat16 or float16.  [default: {CPU.dtype} on cpu, {CUDA.dtype} on cuda]",
        rich_help_panel=ENGINE,
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="Kernels of the real engine: torch or triton (on cpu slow: needs TRITON_INTERPRET=1)."
        f"  [default: {CPU.backend} on cpu, {CUDA.backend} on cuda]",
        rich_help_panel=ENGINE,
    ),
]
EnforceEager = Annotated[
    bool,
    typer.Option("--enforce-eager", help="On cuda: capture no CUDA graphs for decode steps.", rich_help_panel=ENGINE),
]
MaxNumBatchedTokens = Annotated[int, typer.Option(help="Tokens of one step.", rich_help_panel=ENGINE)]
MaxNumSeqs = Annotated[int, typer.Option(help="Requests admitted at a time.", rich_help_panel=ENGINE)]
BlockSize = Annotated[int, typer.Option(min=1, help="Tokens per block.", rich_help_panel=MEMORY)]
