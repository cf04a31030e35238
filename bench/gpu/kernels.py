"""The kernel benchmark: every kernel beside its peers, each checked before it is timed.

    python -m bench.gpu.kernels --out rows.csv                          on a GPU
    TRITON_INTERPRET=1 python -m bench.gpu.kernels --no-timing          checks alone, tiny shapes, in the interpreter

A row holds the shape, the error of the check, the median time, and the floor: the least bytes over the bandwidth
measured on this device, or flops over the rate measured. Rows are written as they are finished. Exit code 1 says that a
check failed; what failed is not timed.
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.gpu.rows import check_row, timed, written
from libra.errors import LibraError, unknown

if TYPE_CHECKING:
    import torch

    from bench.gpu.case import Case, Scale

KINDS = ("lora", "attention", "layer", "peers")
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class KernelSettings:
    """What to run; see ``main``. Raises LibraError for unknown names."""

    only: tuple[str, ...] = KINDS
    dtypes: tuple[str, ...] = ("bfloat16",)
    timing: bool = True
    peer_vllm: Path | None = None

    def __post_init__(self) -> None:
        for kind, names, valid in (("kind of kernel", self.only, KINDS), ("dtype", self.dtypes, DTYPES)):
            for name in names:
                if name not in valid:
                    raise unknown(kind, name, valid)


def main(
    out: Annotated[Path | None, typer.Option(help="Write rows here as CSV.")] = None,
    only: Annotated[str, typer.Option(help="lora, attention, layer, peers.")] = ",".join(KINDS),
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES) + "; several with commas.")] = "bfloat16",
    timing: Annotated[bool, typer.Option("--timing/--no-timing", help="Or check alone.")] = True,
    peer_vllm: Annotated[Path | None, typer.Option(help="Directory that holds the package vllm, 0.33.")] = None,
) -> None:
    """Checks and times every kernel. Refused rows and failed checks are named; the last line is one JSON object."""
    try:
        settings = KernelSettings(tuple(only.split(",")), tuple(dtype.split(",")), timing, peer_vllm)
        rows = list(written(run(settings), out))
    except LibraError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    failed = [row for row in rows if row["check"] != "ok"]
    typer.echo(json.dumps({"rows": len(rows), "failed_checks": len(failed), "out": out and str(out)}))
    if failed:
        raise typer.Exit(1)


def run(settings: KernelSettings) -> Iterator[dict[str, object]]:
    """Rows, as they are finished. Raises LibraError where kernels cannot run, or a peer."""
    import torch

    from bench.gpu.case import ERROR_LIMITS, FULL, TINY
    from bench.gpu.measure import Ceilings, case_seconds
    from libra.kernels.runtime import check_can_launch

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    check_can_launch(device)
    if settings.timing and not on_gpu:
        raise LibraError("no CUDA device to time kernels on; use --no-timing for the checks alone")
    command = shlex.join(["python", "-m", "bench.gpu.kernels", *sys.argv[1:]])
    for name in settings.dtypes:
        dtype = getattr(torch, name)
        ceilings = Ceilings.measure(dtype, device) if settings.timing else None
        for case in _cases(settings, FULL if on_gpu else TINY, dtype, device):
            error = case.error()
            shape = " ".join(f"{key}={value}" for key, value in case.shape.items())
            row = check_row(case.kernel, case.implementation, name, shape, error, ERROR_LIMITS[dtype])
            row |= {"device": torch.cuda.get_device_name(device) if on_gpu else "cpu, interpreted", "command": command}
            if ceilings is not None and row["check"] == "ok":
                floor, kind = ceilings.floor_s(case)
                row = timed(row, case_seconds(case), floor, kind, case.num_bytes)
            yield row


def _cases(settings: KernelSettings, scale: "Scale", dtype: "torch.dtype", device: "torch.device") -> "Iterator[Case]":
    from bench.gpu.attention_cases import attention_cases
    from bench.gpu.layer_cases import layer_cases
    from bench.gpu.lora_cases import lora_cases
    from bench.gpu.peers import peer_cases

    sources: dict[str, Callable[..., Iterator[Case]]] = {
        "lora": lora_cases,
        "attention": attention_cases,
        "layer": layer_cases,
        "peers": partial(peer_cases, vllm=settings.peer_vllm),
    }
    for name in settings.only:
        yield from sources[name](scale, dtype, device)


if __name__ == "__main__":
    typer.run(main)
