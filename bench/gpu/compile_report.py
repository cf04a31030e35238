"""What the compiler makes of every kernel, without a GPU: registers, shared memory, spills, width of loads.

`python -m bench.gpu.compile_report` compiles each launch of a step at the shapes of Llama-3-8B for a compute capability
(90: H100, H200), and launches nothing. The interpreter accepts more than the compiler does: this is what tells.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import torch
import typer

from libra.errors import LibraError
from libra.kernels.activation import silu_mul
from libra.kernels.attention import AttentionConfig, attend, decode_config, prefill_config
from libra.kernels.kv_write import write_kv
from libra.kernels.lora import LoraBatch, expand, shrink
from libra.kernels.lora_plan import DECODE, DECODE_DISTINCT, LONG_PREFILL, SHORT_PREFILL, LoraLayouts
from libra.kernels.norm import add_rms_norm
from libra.kernels.rope import rotate_and_write
from libra.kernels.runtime import interpreted
from libra.kernels.swap import copy_blocks
from libra.model.lora import QKV, Segment, module_groups
from libra.model.packing import UnitLayout
from libra.model.paged_kv import PagedKV
from libra.spec import MODELS, AdapterSpec

MODEL = MODELS["llama3-8b"]
BLOCK_TOKENS = 32
TOKENS = 64
_WARP = 32


@dataclass(frozen=True)
class Compiled:
    """One kernel as compiled. ``registers`` per thread; ``shared_bytes`` and ``stack_bytes`` (spills) per program and
    thread; ``wide_loads`` and ``narrow_loads`` count instructions of 16 bytes a thread and of less; ``matrix`` the
    matrix instructions used: wgmma, mma or none."""

    form: str
    kernel: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    wide_loads: int
    narrow_loads: int
    matrix: str


class _CompilerOnly:
    """Stands where Triton looks for the driver of a GPU, and names one that is not there."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", capability, _WARP)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


def compile_all(dtype: torch.dtype, capability: int = 90) -> Iterator[Compiled]:
    """Every kernel, as it is compiled. From then on this process compiles and never launches. Raises LibraError in
    Triton's interpreter, where nothing is compiled."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    if interpreted():
        raise LibraError("TRITON_INTERPRET is set, so that nothing is compiled; unset it")
    launch = JITFunction.run
    compiled: list[tuple[str, Any]] = []

    def compile_only(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        result = launch(kernel, *arguments, grid=grid, warmup=True, **options)
        compiled.append((kernel.fn.__name__.strip("_"), result))

    driver.set_active(_CompilerOnly(capability))
    with mock.patch.object(JITFunction, "run", compile_only):
        for form, run in _launches(dtype):
            run()
            while compiled:
                yield _report(form, *compiled.pop(0))


def _launches(dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    """The launches of a step on tensors without memory."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def int32(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device="meta")

    arena = empty(1000, MODEL.block_elems(BLOCK_TOKENS))
    kv, layer, size = PagedKV(arena, MODEL, BLOCK_TOKENS), 3, dtype.itemsize
    group = module_groups(MODEL)[QKV]
    x, out = empty(TOKENS, group.fan_in), empty(TOKENS, group.num_pieces * group.piece_width)
    layouts = {"a": UnitLayout.of(AdapterSpec("a", 64), MODEL, BLOCK_TOKENS)}
    forms = {
        "decode": DECODE,
        "decode distinct": DECODE_DISTINCT,
        "short prefill": SHORT_PREFILL,
        "long prefill": LONG_PREFILL,
    }
    for form, config in forms.items():
        plan = LoraLayouts(layouts, size).plan([Segment(0, TOKENS, "a")], {"a": list(range(27))}, config)
        assert plan is not None
        tiles, rows, records, tables = map(_without_memory, (plan.tiles, plan.rows, plan.records, plan.tables))
        batch = LoraBatch(tiles, rows, records, tables, plan.max_rank, plan.alignment, plan.config)
        shrunk = batch.new_shrunk(3, arena.device, dtype)
        products = partial(shrink, batch, arena, MODEL.num_layers, layer, group)
        yield form, partial(products, x, shrunk)
        products = partial(expand, batch, arena, MODEL.num_layers, layer, group)
        yield form, partial(products, shrunk, out)

    num_all = MODEL.num_heads + 2 * MODEL.num_kv_heads
    heads = empty(TOKENS, num_all, MODEL.head_dim)
    queries, attended = heads[:, : MODEL.num_heads], empty(TOKENS, MODEL.num_heads, MODEL.head_dim)
    per_head = MODEL.num_heads // MODEL.num_kv_heads

    def attention(config: AttentionConfig) -> None:
        attend(queries, kv, layer, int32(4, 4), int32(64), config, attended)

    yield "decode", lambda: attention(decode_config(8, 4096, MODEL.num_kv_heads, per_head, size))
    yield "prefill", lambda: attention(prefill_config(512, per_head, MODEL.head_dim, size))
    hidden, rotations = empty(TOKENS, MODEL.hidden_size), empty(TOKENS, 1, MODEL.head_dim)
    keys, key_rows = empty(TOKENS, kv.width), int32(TOKENS)
    yield "", lambda: add_rms_norm(hidden, hidden, empty(MODEL.hidden_size), 1e-5)
    yield "", lambda: silu_mul(empty(TOKENS, 2 * MODEL.intermediate_size))
    yield "", lambda: rotate_and_write(heads, rotations, rotations, kv, layer, key_rows)
    yield "", lambda: write_kv(kv, layer, key_rows, keys, keys)
    yield "", lambda: copy_blocks(arena, int32(8), arena, int32(8))


def _without_memory(array: "np.typing.NDArray[np.int32]") -> torch.Tensor:
    return torch.from_numpy(array).to("meta")


def _report(form: str, kernel: str, compiled: Any) -> Compiled:
    assembly = compiled.asm["ptx"]
    wide = re.findall(r"ld\.global[^;]*\.v4\.b32|ld\.global[^;]*\.v2\.b64|cp\.async\.c[ag][^;]*, 0x10", assembly)
    loads = re.findall(r"ld\.global|cp\.async\.c[ag]", assembly)
    matrix = next((name for name in ("wgmma", "mma") if f"{name}.m" in assembly or f"{name}.sync" in assembly), "none")
    registers, stack = _resources(compiled.asm["cubin"])
    return Compiled(form, kernel, registers, compiled.metadata.shared, stack, len(wide), len(loads) - len(wide), matrix)


def _resources(binary: bytes) -> tuple[int, int]:
    """Registers and stack bytes per thread, read by the tool that Triton brings. Raises LibraError without it."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise LibraError(f"{tool.name} reports no resources; its output begins {text[:80]!r}")
    return int(found[1]), int(found[2])


def main(
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    capability: Annotated[int, typer.Option(help="90: H100 and H200; 80: A100.")] = 90,
) -> None:
    """Prints one JSON object per kernel."""
    try:
        for compiled in compile_all(getattr(torch, dtype), capability):
            typer.echo(json.dumps(asdict(compiled)))
    except LibraError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
