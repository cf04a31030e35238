"""Times of steps on the real engine, and of all else a profile says. Imports torch."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.profiling.batches import BatchMaker, load_anew
from bench.profiling.copies import CopyTimer
from bench.profiling.points import StepPoint
from bench.profiling.running import RunningEngine
from bench.profiling.samples import Samples, job
from bench.step_log import gaps
from libra.clock import WallClock
from libra.engine.arena import ArenaCopier, Arenas, LaneCopier
from libra.engine.build import CacheSizes
from libra.engine.build_real import device_executor
from libra.engine.config import EngineConfig
from libra.engine.device import CpuDevice, Device
from libra.engine.executor import Executor
from libra.engine.link import Copier, Direction
from libra.engine.step_demand import StepCounter, StepDemand
from libra.engine.torch_executor import TorchExecutor
from libra.model.adapter_store import AdapterStore
from libra.model.llama import LlamaModel

# Of the running engine's host tier.
_HOST_BLOCKS = 256

# What steps asked for, and the seconds that they took.
Timed = list[tuple[StepDemand, float]]


@dataclass
class Measurement:
    """Samples of every point, size and direction, taken in turn, so that what disturbs a machine disturbs all alike.
    ``running``: steps of a whole engine, and ``between``: the time before each that followed upon another."""

    steps: list[Samples]
    copies: dict[Direction, list[Samples]]
    caption: str
    fallback: str | None
    num_rounds: int = -1
    running: Timed = field(default_factory=list)
    between: Timed = field(default_factory=list)


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
    with CopyTimer(network, block_tokens, device) as copies:
        steps = _StepTimer(network, block_tokens, batches, points, copies.store, device)
        found = Measurement([Samples() for _ in points], copies.samples, steps.caption, steps.fallback)
        jobs = [job(partial(steps.seconds, index), found.steps[index]) for index in range(len(points))]
        with steps.running_engine() as running:
            jobs += [*copies.jobs(), running.serve]
            generator, started_s = random.Random(0), time.perf_counter()
            while found.num_rounds < least_rounds or time.perf_counter() - started_s < budget_s:
                generator.shuffle(jobs)
                is_warm = found.num_rounds >= 0
                for run in jobs:
                    run(is_warm)
                found.num_rounds += 1
                on_round(found.num_rounds)
        demands = running.demands(StepCounter(network.spec, copies.store.values()))
        found.running = [(demands[step], step.seconds) for step in running.steps]
        found.between = [(demands[step], seconds) for step, seconds in gaps(running.steps)]
    return found, batches


class _StepTimer:
    """Steps of the real engine's executor on a pool of its own, alone or amid a whole engine."""

    def __init__(
        self,
        network: LlamaModel,
        block_tokens: int,
        maker: BatchMaker,
        points: Sequence[StepPoint],
        store: AdapterStore,
        device: Device | None,
    ) -> None:
        """``store``: the adapters of the running engine."""
        self._sizes = CacheSizes(maker.num_blocks, _HOST_BLOCKS)
        arenas = Arenas(network.spec, block_tokens, maker.num_blocks, _HOST_BLOCKS, network.dtype, device)
        specs = {spec.adapter_id: spec for spec in (*maker.adapters, *store.values())}
        self._clock = WallClock()
        self._executor: Executor
        self._copier: Copier
        if device is None:
            arenas.touch()
            self._executor = TorchExecutor(network, arenas.hbm, specs, block_tokens, self._clock)
            self._copier = ArenaCopier(arenas, store)
            self.caption = f"measured on {CpuDevice().describe()}"
        else:
            config = EngineConfig(block_tokens=block_tokens)
            self._executor = device_executor(network, arenas, specs, config, self._clock, device)
            self._copier = LaneCopier(arenas, store, device)
            self.caption = self._executor.describe()
        self.fallback = self._executor.fallback
        self._batches = [maker.make(point) for point in points]
        self._first_use = [point.first_use for point in points]
        self._network, self._block_tokens, self._adapters = network, block_tokens, list(store.values())

    def running_engine(self) -> RunningEngine:
        """A whole engine on the same executor and pool."""
        return RunningEngine(
            self._executor,
            self._copier,
            self._network.spec,
            self._adapters,
            self._sizes,
            self._block_tokens,
            self._network.config.max_length,
        )

    def seconds(self, index: int) -> float:
        if self._first_use[index]:
            load_anew(self._batches[index])
        started_s = self._clock.now()
        return self._executor.execute(self._batches[index], 1, math.inf).step_ends[0] - started_s
