"""Times of steps on the real engine, and of all else a profile says. Imports torch."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.profiling.batches import BatchMaker, load_anew
from bench.profiling.copies import CopyTimer
from bench.profiling.loop import loop_samples, loop_seconds
from bench.profiling.points import StepPoint
from bench.profiling.samples import Samples, job
from libra.clock import WallClock
from libra.engine.arena import Arenas
from libra.engine.build_real import device_executor
from libra.engine.config import EngineConfig
from libra.engine.device import CpuDevice, Device
from libra.engine.executor import Executor
from libra.engine.link import Direction
from libra.engine.torch_executor import TorchExecutor
from libra.model.llama import LlamaModel


@dataclass
class Measurement:
    """Samples of every point, size and direction, taken in turn, so that what disturbs a machine disturbs all alike."""

    steps: list[Samples]
    loop: list[Samples]
    copies: dict[Direction, list[Samples]]
    caption: str
    fallback: str | None
    num_rounds: int = -1


def measure(
    network: LlamaModel,
    block_tokens: int,
    points: Sequence[StepPoint],
    least_rounds: int,
    budget_s: float,
    on_round: Callable[[int], None] = lambda number: None,
    device: Device | None = None,
) -> tuple[Measurement, BatchMaker]:
    """Rounds over all points in a new random order each, until ``budget_s`` has passed and there are ``least_rounds``.

    Every median is over one sample a round; a round before them warms up and does not count.
    """
    batches = BatchMaker(network.spec, block_tokens, list(points))
    steps = _StepTimer(network, block_tokens, batches, points, device)
    with CopyTimer(network, block_tokens, device) as copies:
        samples = [Samples() for _ in points]
        found = Measurement(samples, loop_samples(), copies.samples, steps.caption, steps.fallback)
        jobs = [job(partial(steps.seconds, index), found.steps[index]) for index in range(len(points))]
        loop = partial(loop_seconds, steps.executor, network.spec, block_tokens)
        jobs += [job(partial(loop, one.size), one) for one in found.loop]
        jobs += copies.jobs()
        generator, started_s = random.Random(0), time.perf_counter()
        while found.num_rounds < least_rounds or time.perf_counter() - started_s < budget_s:
            generator.shuffle(jobs)
            is_warm = found.num_rounds >= 0
            for run in jobs:
                run(is_warm)
            found.num_rounds += 1
            on_round(found.num_rounds)
    return found, batches


class _StepTimer:
    """Steps of the real engine's ``executor`` on a pool of its own."""

    def __init__(
        self,
        network: LlamaModel,
        block_tokens: int,
        maker: BatchMaker,
        points: Sequence[StepPoint],
        device: Device | None,
    ) -> None:
        arenas = Arenas(network.spec, block_tokens, maker.num_blocks, 1, network.dtype, device)
        specs = {spec.adapter_id: spec for spec in maker.adapters}
        self._clock = WallClock()
        self.executor: Executor
        if device is None:
            self.executor = TorchExecutor(network, arenas.hbm, specs, block_tokens, self._clock)
            self.caption = f"measured on {CpuDevice().describe()}"
        else:
            config = EngineConfig(block_tokens=block_tokens)
            self.executor = device_executor(network, arenas, specs, config, self._clock, device)
            self.caption = self.executor.describe()
        self.fallback = self.executor.fallback
        self._batches = [maker.make(point) for point in points]
        self._first_use = [point.first_use for point in points]

    def seconds(self, index: int) -> float:
        if self._first_use[index]:
            load_anew(self._batches[index])
        started_s = self._clock.now()
        return self.executor.execute(self._batches[index], 1, math.inf).step_ends[0] - started_s
