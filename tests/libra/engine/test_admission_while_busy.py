"""Requests admitted while a real step computes: the same tokens, and nothing that the step touches is touched."""

import queue
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from libra.cache.libra_policy import LIBRA
from libra.cache.policy import CachePolicy
from libra.cache.pool import FREE
from libra.engine.build import CacheSizes
from libra.engine.build_real import RealLink, build_real_engine, find_adapters
from libra.engine.config import EngineConfig
from libra.engine.device import CpuDevice, Device, Mark
from libra.engine.engine import Engine
from libra.engine.executor import StepBatch, StepResult
from libra.engine.link import Direction, Transfer
from libra.engine.sequence import SamplingParams, Sequence
from libra.model.adapter_store import AdapterStore
from libra.model.llama import LlamaModel, load_model
from libra.request import Request
from tests.tiny_models import TinyModel

BLOCK_TOKENS = 8
OUTPUT_TOKENS = 10
BETWEEN_STEPS = replace(LIBRA, admits="between_steps")


class SlowDevice(CpuDevice):
    """A device whose steps have been issued long before they end."""

    def mark(self) -> Mark:
        return _Slow()


class _Slow(Mark):
    def wait(self) -> None:
        time.sleep(0.003)

    def seconds(self) -> float:
        return 0.003


@pytest.fixture(scope="module")
def network(tiny_model: TinyModel) -> LlamaModel:
    torch.set_num_threads(1)
    return load_model(tiny_model.directory, prepack=False)


@pytest.fixture
def store(tiny_model: TinyModel, network: LlamaModel, tmp_path: Path) -> AdapterStore:
    """Adapters in a directory of their own, which a test may destroy."""
    adapters = AdapterStore(network.spec, BLOCK_TOKENS, network.dtype)
    for path in find_adapters(tiny_model.directory / "adapters"):
        adapters.add(Path(shutil.copytree(path, tmp_path / path.name)))
    return adapters


def engine_of(
    network: LlamaModel, store: AdapterStore, policy: CachePolicy, device: Device | None, host_blocks: int = 150
) -> Engine:
    """Room for about two adapters and two requests, over a link that takes a millisecond or so for an adapter."""
    largest = max(spec.num_blocks(network.spec, BLOCK_TOKENS) for spec in store.values())
    config = EngineConfig(block_tokens=BLOCK_TOKENS, max_num_batched_tokens=32)
    sizes = CacheSizes(2 * largest + 26, host_blocks)
    link = RealLink(gbps=0.02)
    return build_real_engine(policy, network, store, list(store), sizes, config, link, device=device, graphs=False)


def conversations(adapters: list[str], seed: int) -> list[Request]:
    """Turns that go on from each other over all adapters and the base model, close together."""
    generator = np.random.default_rng(seed)
    shared = generator.integers(3, 500, 17).tolist()
    rows: list[tuple[float, str | None, list[int]]] = []
    for adapter in (None, *adapters, *adapters):
        prompt, arrival_s = shared, float(generator.uniform(0, 0.05))
        for _ in range(3):
            prompt = [*prompt, *generator.integers(3, 500, int(generator.integers(3, 25))).tolist()]
            rows.append((arrival_s, adapter, prompt))
            arrival_s += float(generator.uniform(0.01, 0.15))
    ordered = sorted(rows, key=lambda row: row[0])
    return [
        Request(number, arrival_s, adapter, OUTPUT_TOKENS, prompt_token_ids=tuple(prompt))
        for number, (arrival_s, adapter, prompt) in enumerate(ordered)
    ]


class Feeder(threading.Thread):
    """Hands requests over at their times, from another thread, as a server does."""

    def __init__(self, engine: Engine, requests: list[Request]) -> None:
        super().__init__()
        self.sequences: list[Sequence] = []
        self._engine, self._requests = engine, requests
        self._inbox: queue.SimpleQueue[Request] = queue.SimpleQueue()
        engine.submit_arrived = self._submit_arrived

    def run(self) -> None:
        for request in self._requests:
            self._engine.clock.advance_to(request.arrival_s)
            self._inbox.put(request)
            self._engine.clock.ring()

    def _submit_arrived(self) -> None:
        while not self._inbox.empty():
            self.sequences.append(self._engine.submit(self._inbox.get(), SamplingParams()))

    def serve(self) -> dict[int, list[int]]:
        """Runs the engine until all have been answered: the answers by request."""
        self.start()
        while len(self.sequences) < len(self._requests) or self._engine.scheduler.has_work:
            self._engine.submit_arrived()
            if not self._engine.step():
                self._engine.clock.rest_until(self._engine.next_event_s())
            self._engine.manager.check()
        self.join()
        return {one.request.id: one.tokens[one.num_prompt_tokens :].tolist() for one in self.sequences}


class Watch:
    """Fails when a transfer writes what the step under way reads, or reads what it writes."""

    def __init__(self, engine: Engine) -> None:
        self.num_admitted = self.num_transfers = 0
        self._engine = engine
        self._reads: set[int] = set()
        self._writes: set[int] = set()
        self._execute, self._submit = engine.executor.execute, engine.manager.memory.link.submit
        self._admit_ahead = engine.scheduler.admit_ahead
        engine.executor.execute = self.execute  # type: ignore[method-assign]
        engine.manager.memory.link.submit = self.submit  # type: ignore[method-assign]
        engine.scheduler.admit_ahead = self.admit_ahead  # type: ignore[method-assign]

    def execute(self, batch: StepBatch, max_steps: int, until_s: float) -> StepResult:
        for sequence in (*batch.decode, *(chunk.sequence for chunk in batch.prefill)):
            self._reads.update(sequence.block_table, sequence.adapter_blocks)
            self._writes.update(sequence.block_table[sequence.num_computed // BLOCK_TOKENS :])
        result = self._execute(batch, max_steps, until_s)
        self._reads.clear()
        self._writes.clear()
        return result

    def submit(self, transfer: Transfer) -> None:
        touched = self._writes if transfer.direction is Direction.OUT else self._reads
        assert not touched & set(transfer.hbm_blocks)
        self.num_transfers += bool(self._reads)
        self._submit(transfer)

    def admit_ahead(self) -> None:
        before = len(self._engine.manager.holdings)
        self._admit_ahead()
        self.num_admitted += len(self._engine.manager.holdings) - before
        owner = self._engine.manager.memory.hbm.owner
        assert all(owner[block] != FREE for block in self._reads)
        self._engine.manager.check()


@contextmanager
def closing(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.manager.memory.link.close()


@pytest.mark.parametrize("device", [None, SlowDevice()], ids=["cpu", "device"])
@pytest.mark.parametrize("seed", [0, 1])
def test_tokens_are_those_of_an_engine_that_admits_between_steps(
    network: LlamaModel, store: AdapterStore, device: Device | None, seed: int
) -> None:
    requests = conversations(list(store), seed)
    with closing(engine_of(network, store, LIBRA, device)) as engine:
        watch = Watch(engine)
        found = Feeder(engine, requests).serve()
        counters = engine.manager.memory.counters
    with closing(engine_of(network, store, BETWEEN_STEPS, None)) as plain:
        assert plain.executor.while_busy is None
        assert Feeder(plain, requests).serve() == found
    if device is not None:  # on a CPU that has more to do a step may be over before anything comes
        assert watch.num_admitted > 0
        assert watch.num_transfers > 0
    assert counters.evicted_blocks > 0
    assert {record.status for record in engine.records} == {"finished"}
    for record in engine.records:
        assert record.first_token_s is not None
        parts = record.queue_s + record.adapter_load_s + record.kv_load_s + record.prefill_s
        assert parts == pytest.approx(record.first_token_s - record.arrival_s, abs=1e-9)


@pytest.mark.parametrize("device", [None, SlowDevice()], ids=["cpu", "device"])
def test_an_adapter_that_cannot_be_read_ends_its_requests_whenever_they_were_admitted(
    network: LlamaModel, store: AdapterStore, tmp_path: Path, device: Device | None
) -> None:
    requests, lost = conversations(list(store), seed=3), next(iter(store))
    shutil.rmtree(tmp_path / lost)
    # No room for an adapter in host memory: every load is one from disk.
    with closing(engine_of(network, store, LIBRA, device, host_blocks=1)) as engine:
        failed: list[Transfer] = []
        engine.on_failed_load = failed.append
        feeder = Feeder(engine, requests)
        feeder.serve()
    assert {load.adapter_id for load in failed} == {lost}
    for sequence in feeder.sequences:
        assert sequence.record.status == ("failed" if sequence.adapter_id == lost else "finished")


def test_all_of_an_executor_computes_in_one_thread_of_its_own(network: LlamaModel, store: AdapterStore) -> None:
    """Torch keeps worker threads for each thread that computes."""
    names: set[str] = set()
    forward = network.forward

    def noted(*arguments: object) -> torch.Tensor:
        names.add(threading.current_thread().name)
        return forward(*arguments)  # type: ignore[arg-type]

    network.forward = noted  # type: ignore[assignment, method-assign]
    try:
        with closing(engine_of(network, store, LIBRA, None)) as engine:
            Feeder(engine, conversations(list(store), seed=4)[:2]).serve()
    finally:
        network.forward = forward  # type: ignore[method-assign]
    assert len(names) == 1
    assert threading.current_thread().name not in names
