"""Whole steps and swaps of the real engine at 8B shapes, each checked and beside its floor.

    python -m bench.gpu.steps --out steps.csv

Decode and prefill steps with adapters and without, transfers between the tiers block by block beside one large copy of
pinned memory, and decode steps while the link is saturated. Weights, KV and adapters are random. What is timed is the
engine's own code: the executor's ``execute``, and the link's ``submit`` until the last transfer is done.
"""

import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from bench.gpu.rows import Row, check_row, timed, written
from bench.profiling.points import ChunkPoint, DecodePoint, StepPoint
from libra.errors import LibraError

if TYPE_CHECKING:
    from bench.gpu.engine_world import EngineWorld
    from bench.gpu.measure import Ceilings

# Of ||logits - torch's|| / ||torch's|| in bfloat16: thirty-two layers of roundings.
LOGIT_LIMIT = 5e-2
_RANK = 32
_CONTEXT = 1023


@dataclass(frozen=True)
class StepScale:
    """What is measured. ``batches`` of decoding sequences behind ``context`` tokens, ``distinct`` adapters for the
    largest; ``chunks`` of a prompt; ``transfers`` of one block, ``large`` blocks of the copy they are held against;
    ``repeats`` of every step."""

    batches: tuple[int, ...]
    context: int
    rank: int
    chunks: tuple[int, ...]
    transfers: int
    large: int
    repeats: int

    def points(self) -> list[StepPoint]:
        """Each batch without adapters and with one for each sequence, then each chunk likewise."""
        points = []
        for count in self.batches:
            for adapters in (False, True):
                part = [DecodePoint(self.context, i if adapters else None, self.rank) for i in range(count)]
                points.append(StepPoint(tuple(part)))
        for tokens in self.chunks:
            points += [StepPoint(prefill=(ChunkPoint(tokens, 0, one, self.rank),)) for one in (None, 0)]
        return points


FULL = StepScale((1, 8, 32), _CONTEXT, _RANK, (512, 2048), transfers=512, large=256, repeats=20)


def step_rows(world: "EngineWorld", scale: StepScale, ceilings: "Ceilings") -> Iterator[Row]:
    """Decode and prefill steps, then decode under a saturated link."""
    busiest = max(scale.batches)
    for point in scale.points():
        batch = world.maker.make(point)
        kernel = "decode step" if point.decode else "prefill step"
        row = _step_row(world, kernel, point)
        if row["check"] == "ok":
            row = timed(row, median(world.step_seconds(batch, scale.repeats)), *world.floor_s(point, ceilings))
        yield row
        if row["check"] == "ok" and len(point.decode) == busiest and not point.ranks:
            with world.saturated_link():
                seconds = median(world.step_seconds(batch, scale.repeats))
            row = _step_row(world, "decode step during swaps", point)
            yield timed(row, seconds, *world.floor_s(point, ceilings))


def _step_row(world: "EngineWorld", kernel: str, point: StepPoint) -> Row:
    described = point.describe()
    names = ("decode", "context", "prefill_tokens", "adapters", "ranks")
    shape = " ".join(f"{name}={described[name]}" for name in names if described[name])
    error = world.logit_error(world.maker.make(point))
    return check_row(kernel, f"libra {world.backend}", world.dtype, shape, error, LOGIT_LIMIT)


def swap_rows(world: "EngineWorld", scale: StepScale) -> Iterator[Row]:
    """Transfers of one block each, in either direction and in both, beside one copy of many adjacent blocks."""
    for name, directions in world.directions().items():
        large_s = world.large_copy_seconds(directions, scale.large)
        num_bytes = scale.transfers * world.block_bytes
        error = world.swap_error(directions)
        row = check_row(f"swap {name}", "libra link", world.dtype, f"block={world.block_bytes}", error, 0.0)
        if row["check"] == "ok":
            floor_s = large_s / (scale.large * world.block_bytes) * num_bytes
            row = timed(row, world.swap_seconds(directions, scale.transfers), floor_s, "pinned copy", num_bytes)
        yield row


def main(out: Annotated[Path | None, typer.Option(help="Write rows here as CSV.")] = None) -> None:
    """Checks and times steps and swaps on the CUDA device."""
    try:
        rows = list(written(_rows(FULL), out))
    except LibraError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    failed = [row for row in rows if row["check"] != "ok"]
    typer.echo(f'{{"rows": {len(rows)}, "failed_checks": {len(failed)}}}')
    if failed:
        raise typer.Exit(1)


def _rows(scale: StepScale) -> Iterator[Row]:
    import torch

    from bench.gpu.engine_world import EngineWorld
    from bench.gpu.measure import Ceilings
    from bench.settings import CUDA
    from libra.engine.cuda_device import CudaDevice
    from libra.kernels.backend import make_backend
    from libra.model.random_model import random_model
    from libra.spec import MODELS

    device, spec = CudaDevice(), MODELS[CUDA.model]
    device.check_use(CUDA.dtype, spec)
    ceilings = Ceilings.measure(torch.bfloat16, device.place)
    started_s = time.monotonic()
    network = random_model(spec, torch.bfloat16, device.place, make_backend(CUDA.backend))
    command = {"device": device.describe(), "command": shlex.join(["python", "-m", "bench.gpu.steps", *sys.argv[1:]])}
    with EngineWorld(network, scale.points(), device, num_host=2 * scale.large) as world:
        typer.echo(f"ready after {time.monotonic() - started_s:.0f} s")
        for row in swap_rows(world, scale):
            yield row | command
        for row in step_rows(world, scale, ceilings):
            yield row | command


if __name__ == "__main__":
    typer.run(main)
