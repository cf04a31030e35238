"""The real engine's executor, arenas and link without its scheduler: what steps and swaps are measured on."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.gpu.measure import Ceilings
from bench.profiling.batches import BatchMaker
from bench.profiling.points import StepPoint
from libra.clock import VirtualClock, WallClock
from libra.engine.arena import Arenas, LaneCopier
from libra.engine.build_real import device_executor
from libra.engine.config import EngineConfig
from libra.engine.device import Device
from libra.engine.device_executor import DeviceExecutor
from libra.engine.executor import StepBatch
from libra.engine.link import Direction, Transfer
from libra.engine.profile import datasheet_profile
from libra.engine.roofline import RooflineExecutor
from libra.engine.thread_link import ThreadLink
from libra.model.backend import TorchBackend
from libra.model.llama import LlamaModel
from libra.model.random_model import RandomAdapters
from libra.spec import DEVICES

_KEPT_IN_FLIGHT = 64
_BLOCKS_OF_TRANSFER = 4


class EngineWorld:
    """``maker`` makes batches of the points it was made for. Blocks behind theirs, as many as host blocks, are free to
    be swapped. Threads end with the block."""

    def __init__(
        self, network: LlamaModel, points: list[StepPoint], device: Device, num_host: int, block_tokens: int = 32
    ) -> None:
        """``backend`` says what computes: where a kernel does not compile, that it is not the one asked for."""
        config = EngineConfig(block_tokens=block_tokens, max_num_seqs=max(len(point.decode) for point in points))
        self._device = device
        self._network = network
        self.maker = BatchMaker(network.spec, block_tokens, points)
        blocks = self.maker.num_blocks + num_host
        self.arenas = Arenas(network.spec, block_tokens, blocks, num_host, network.dtype, device)
        adapters = {spec.adapter_id: spec for spec in self.maker.adapters}
        clock = WallClock()
        self._executor = device_executor(network, self.arenas, adapters, config, clock, device)
        plain = network.with_backend(TorchBackend())
        self._plain = DeviceExecutor(plain, self.arenas.hbm, adapters, block_tokens, clock, device, buckets=())
        # Of the size of weights, so that sums over thousands of them stay near one.
        self.arenas.hbm.normal_(std=0.02)
        self.arenas.host.fill_(1)
        store = RandomAdapters(network.spec, block_tokens, network.dtype, device.place, 1, (1,))
        self._link = ThreadLink(LaneCopier(self.arenas, store, device), clock)
        self._first_free = self.maker.num_blocks
        self.backend = self._executor.fallback or network.backend.name
        self.dtype = str(network.dtype).removeprefix("torch.")
        self.block_bytes = network.spec.block_bytes(block_tokens)

    def __enter__(self) -> "EngineWorld":
        return self

    def __exit__(self, *exception: object) -> None:
        self._link.close()

    # ---- steps -----------------------------------------------------------------------------------------------------

    def logit_error(self, batch: StepBatch) -> float:
        """||logits - torch's|| / ||torch's|| of a step."""
        expected, actual = self._plain.logits(batch).float(), self._executor.logits(batch).float()
        return float((actual - expected).norm() / expected.norm())

    def step_seconds(self, batch: StepBatch, repeats: int) -> list[float]:
        """Times of ``execute``, a first one left out."""
        times = []
        for _ in range(repeats + 1):
            started_s = time.perf_counter()
            self._executor.execute(batch, 1, math.inf)
            times.append(time.perf_counter() - started_s)
        return times[1:]

    def floor_s(self, point: StepPoint, ceilings: Ceilings) -> tuple[float, str]:
        """The least time of a step and what bounds it: weights, KV and adapters read once over the bandwidth measured,
        or products and attention over the rate measured."""
        spec = self._network.spec
        counter = RooflineExecutor(
            VirtualClock(), datasheet_profile(DEVICES["h200"], spec, 1), spec, self.maker.adapters
        )
        demand = counter.demand(self.maker.make(point))
        moving = (demand.num_bytes + demand.adapter_bytes) / ceilings.bytes_per_s
        computing = (demand.flops + demand.adapter_flops) / ceilings.flops_per_s
        return max((moving, "bytes"), (computing, "flops"))

    # ---- swaps -----------------------------------------------------------------------------------------------------

    def directions(self) -> dict[str, tuple[Direction, ...]]:
        return {"in": (Direction.IN,), "out": (Direction.OUT,), "both ways": (Direction.IN, Direction.OUT)}

    def swap_error(self, directions: tuple[Direction, ...]) -> float:
        """How many of some blocks did not arrive as they were sent."""
        wrong = 0
        for direction in directions:
            source, target = self._sides(direction)
            source[0].copy_(torch.arange(source.shape[1]) % 251)
            transfer = self._transfer(direction, [0])
            self._link.submit(transfer)
            self._link.wait(transfer)
            self._link.poll()
            wrong += not torch.equal(source[0].cpu(), target[0].cpu())
        return float(wrong)

    def swap_seconds(self, directions: tuple[Direction, ...], count: int) -> float:
        """From the first of ``count`` transfers of one block each in every direction to the end of the last."""
        num_host = len(self.arenas.host)
        started_s = time.perf_counter()
        # Each direction has blocks of its own.
        half = num_host // 2
        sent = [
            self._transfer(direction, [side * half + number % half])
            for number in range(count)
            for side, direction in enumerate(directions)
        ]
        for transfer in sent:
            self._link.submit(transfer)
        for transfer in sent[-len(directions) :]:
            self._link.wait(transfer)
        seconds = time.perf_counter() - started_s
        self._link.poll()
        return seconds

    def large_copy_seconds(self, directions: tuple[Direction, ...], num_blocks: int) -> float:
        """One copy of so many adjacent blocks in every direction at once, the faster of two."""
        lanes = {direction: self._device.lane() for direction in directions}
        times = []
        for _ in range(2):
            started_s = time.perf_counter()
            marks = []
            for direction in directions:
                source, target = self._sides(direction)
                count = slice(0, num_blocks) if direction is directions[0] else slice(len(target) - num_blocks, None)

                def copy(target: torch.Tensor = target[count], source: torch.Tensor = source[count]) -> None:
                    target.copy_(source, non_blocking=True)

                marks.append(lanes[direction].run(copy))
            for mark in marks:
                mark.wait()
            times.append(time.perf_counter() - started_s)
        return min(times)

    @contextmanager
    def saturated_link(self) -> Iterator[None]:
        """Keeps both directions busy until the block ends, and waits for what is under way then."""
        stop = False
        half = len(self.arenas.host) // 2

        def feed() -> None:
            number = 0
            while not stop:
                sent = []
                for _ in range(_KEPT_IN_FLIGHT):
                    for side, direction in enumerate((Direction.IN, Direction.OUT)):
                        blocks = [side * half + (number + i) % half for i in range(_BLOCKS_OF_TRANSFER)]
                        sent.append(self._transfer(direction, blocks))
                        self._link.submit(sent[-1])
                    number += _BLOCKS_OF_TRANSFER
                # While the second half is under way, the next are sent.
                self._link.wait(sent[len(sent) // 2])
                self._link.poll()

        feeder = threading.Thread(target=feed, name="feeder")
        feeder.start()
        try:
            yield
        finally:
            stop = True
            feeder.join()
            while self._link.pending():
                time.sleep(1e-3)
                self._link.poll()

    def _sides(self, direction: Direction) -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target of the blocks that are free to be swapped."""
        hbm = self.arenas.hbm[self._first_free :]
        return (self.arenas.host, hbm) if direction is Direction.IN else (hbm, self.arenas.host)

    def _transfer(self, direction: Direction, blocks: list[int]) -> Transfer:
        hbm = [self._first_free + block for block in blocks]
        return Transfer(direction, [], hbm, blocks, len(blocks) * self.block_bytes)
