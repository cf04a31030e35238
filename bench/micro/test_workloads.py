"""What a million requests cost to make, convert, read and inspect on one core. `make micro` runs it.

Targets: making or converting 60 s and 2 GB, inspecting 30 s. Each job has a process of its own, so that its peak memory
is its own; ``user_s`` and ``system_s`` are CPU seconds, which other work on the machine moves less than wall time.
"""

import json
import multiprocessing
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from libra.spec import MODELS
from workloads.demand import Demand
from workloads.inspection import inspect_trace
from workloads.load import load_trace
from workloads.registry import WORKLOADS
from workloads.trace import Trace, write_trace

NUM_REQUESTS = 1_000_000
DURATION_S = 1800.0
MOONCAKE_BLOCKS = 8


@dataclass
class Cost:
    """CPU seconds of one job, the peak memory of its process, and the requests it handled."""

    user_s: float = 0.0
    system_s: float = 0.0
    peak_mb: float = 0.0
    num_requests: int = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Adds what runs inside; the peak is that of the process so far."""
        before = resource.getrusage(resource.RUSAGE_SELF)
        yield
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.user_s += after.ru_utime - before.ru_utime
        self.system_s += after.ru_stime - before.ru_stime
        self.peak_mb = after.ru_maxrss / 1024


def generated(name: str) -> Trace:
    return WORKLOADS[name].generate(Demand(request_rate=NUM_REQUESTS / DURATION_S, duration_s=DURATION_S))


def generate(name: str) -> Cost:
    cost = Cost()
    with cost.measured():
        cost.num_requests = len(generated(name).requests)
    return cost


def write(path: Path) -> Cost:
    trace, cost = generated("chatbot"), Cost(num_requests=NUM_REQUESTS)
    with cost.measured():
        write_trace(path, trace)
    return cost


def read(path: Path) -> Cost:
    cost = Cost()
    with cost.measured():
        cost.num_requests = len(load_trace(path).requests)
    return cost


def inspect(name: str) -> Cost:
    trace, cost = generated(name), Cost()
    with cost.measured():
        cost.num_requests = inspect_trace(trace, MODELS["llama3-8b"], (32, 64), 32).statistics.num_requests
    return cost


def write_mooncake_rows(path: Path) -> None:
    """Sessions of prompts that grow by a block a turn, in the columns of Mooncake's files and in 3 s lumps."""
    rng = np.random.default_rng(0)
    session = rng.integers(NUM_REQUESTS // 4, size=NUM_REQUESTS).tolist()
    lengths = rng.integers(1, 512, NUM_REQUESTS).tolist()
    turns = [0] * (NUM_REQUESTS // 4)
    with path.open("w") as file:
        for number in range(NUM_REQUESTS):
            which = session[number]
            turns[which] = turn = turns[which] % MOONCAKE_BLOCKS + 1
            blocks = [0, *range(1 + which * MOONCAKE_BLOCKS, 1 + which * MOONCAKE_BLOCKS + turn)]
            row = {
                "timestamp": number // 1500 * 3000,
                "input_length": 512 * turn + lengths[number],
                "output_length": lengths[number],
                "hash_ids": blocks,
            }
            file.write(json.dumps(row) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("million")
    return path


def run_apart(benchmark: BenchmarkFixture, job: Callable[..., Cost], argument: object) -> Cost:
    """One round of ``job`` in a fresh process, its cost noted beside the benchmark's wall time."""

    def apart() -> Cost:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(job, argument).result()

    cost: Cost = benchmark.pedantic(apart, rounds=1, iterations=1)
    benchmark.extra_info |= asdict(cost)
    return cost


@pytest.mark.parametrize("name", ["chatbot", "translation", "agents"])
def test_generate(benchmark: BenchmarkFixture, name: str) -> None:
    """Target: 60 s and 2 GB."""
    assert run_apart(benchmark, generate, name).num_requests == pytest.approx(NUM_REQUESTS, rel=0.01)


def test_convert(benchmark: BenchmarkFixture, folder: Path) -> None:
    """A Mooncake file: lumps are spread, sessions found and adapters drawn for them. Target: 60 s and 2 GB."""
    path = folder / "mooncake.jsonl"
    write_mooncake_rows(path)
    assert run_apart(benchmark, read, path).num_requests == NUM_REQUESTS


def test_write_then_read(benchmark: BenchmarkFixture, folder: Path) -> None:
    """The file of a million chatbot requests, written and read back with every row checked. No target."""
    path = folder / "chatbot.jsonl"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        written = pool.submit(write, path).result()
    cost = run_apart(benchmark, read, path)
    benchmark.extra_info |= {"write_user_s": written.user_s, "file_mb": path.stat().st_size / 1e6}
    assert cost.num_requests == pytest.approx(NUM_REQUESTS, rel=0.01)


@pytest.mark.parametrize("name", ["chatbot", "agents"])
def test_inspect(benchmark: BenchmarkFixture, name: str) -> None:
    """Every figure of the screen, the trace being in memory. Target: 30 s."""
    assert run_apart(benchmark, inspect, name).num_requests == pytest.approx(NUM_REQUESTS, rel=0.01)
